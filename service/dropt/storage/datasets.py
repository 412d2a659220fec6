"""Data sets: offered by workers or uploaded; a name stands for one digest."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import select, update

from dropt.errors import NameTaken, NotFound
from dropt.spec.ids import DatasetId, new_id
from dropt.spec.protocol import DatasetOffer
from dropt.storage.clock import now_expression
from dropt.storage.insertion import insert_or_ignore
from dropt.storage.session import Session
from dropt.storage.tables import dataset

Kind = Literal["offered", "uploaded"]


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One data set as it is stored; the bytes of an uploaded one are the artifact `sha256`."""

    id: DatasetId
    project: str
    name: str
    kind: Kind
    sha256: str
    offer: DatasetOffer
    bytes: int | None
    created_at: datetime


def insert_uploaded(
    session: Session, offer: DatasetOffer, n_bytes: int, *, project: str
) -> DatasetRow:
    """Store an uploaded data set; the same bytes under the same name again change nothing.

    Raises:
        NameTaken: the name stands for other bytes.
    """
    return _insert(session, offer, "uploaded", n_bytes, project=project)


def insert_offered(session: Session, offer: DatasetOffer, *, project: str) -> DatasetRow:
    """Store what a worker offers; the newest description of the same bytes counts.

    Raises:
        NameTaken: the name stands for other bytes.
    """
    row = _insert(session, offer, "offered", None, project=project)
    if row.kind == "offered" and row.offer != offer:
        session.execute(update(dataset).where(dataset.c.id == row.id).values(offer=offer))
    return row


def get(session: Session, name: str, *, project: str) -> DatasetRow:
    """The data set of that name.

    Raises:
        NotFound: no such data set in this project.
    """
    query = select(dataset).where(dataset.c.name == name, dataset.c.project == project)
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"No data set named '{name}'")
    return DatasetRow(**row._asdict())


def list_all(session: Session, *, project: str) -> list[DatasetRow]:
    """The data sets of a project, by name."""
    query = select(dataset).where(dataset.c.project == project).order_by(dataset.c.name)
    return [DatasetRow(**row._asdict()) for row in session.execute(query)]


def _insert(
    session: Session, offer: DatasetOffer, kind: Kind, n_bytes: int | None, *, project: str
) -> DatasetRow:
    session.execute(
        insert_or_ignore(session, dataset).values(
            id=new_id("ds"),
            project=project,
            name=offer.name,
            kind=kind,
            sha256=offer.sha256,
            offer=offer,
            bytes=n_bytes,
            created_at=now_expression(),
        )
    )
    row = get(session, offer.name, project=project)
    if row.sha256 != offer.sha256:
        raise NameTaken(
            f"A data set named '{offer.name}' is here with other content "
            f"(SHA-256 {row.sha256[:12]}..., received {offer.sha256[:12]}...); choose another name"
        )
    return row
