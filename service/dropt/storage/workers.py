"""Workers: who is there, on which device, and which models and data sets they offer."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    select,
    update,
)

from dropt.errors import NotFound
from dropt.spec.ids import JobId, WorkerId, new_id
from dropt.spec.protocol import DatasetOffer, ModelOffer, Registration
from dropt.storage import datasets
from dropt.storage.clock import now, now_expression
from dropt.storage.columns import UtcTime
from dropt.storage.session import Session
from dropt.storage.tables import dataset_offer, model_offer, trial, worker

GONE_AFTER_S = 30.0  # three heartbeats


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker; `gone` when it left or was silent for 30 s."""

    id: WorkerId
    project: str
    name: str
    registration: Registration
    state: Literal["live", "draining", "gone"]
    registered_at: datetime
    last_seen_at: datetime
    n_busy: int
    job_id: JobId | None


class OfferedModel(NamedTuple):
    """A model by its newest offer; no live worker may be left that has it."""

    offer: ModelOffer
    n_workers: int


class KnownDataset(NamedTuple):
    """A data set that was uploaded, or that a worker has offered."""

    offer: DatasetOffer
    kind: Literal["offered", "uploaded"]
    n_workers: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that a job may name."""

    models: Mapping[str, OfferedModel]
    datasets: Mapping[str, KnownDataset]


def register(session: Session, registration: Registration, *, project: str) -> WorkerId:
    """Store a new worker and what it offers.

    Raises:
        NameTaken: a data set of that name has another digest here.
    """
    for offer in sorted(registration.datasets, key=lambda offer: offer.name):
        datasets.insert_offered(session, offer, project=project)
    id = WorkerId(new_id("wrk"))
    session.execute(
        insert(worker).values(
            id=id,
            project=project,
            name=registration.name,
            registration=registration,
            state="live",
            registered_at=now_expression(),
            last_seen_at=now_expression(),
        )
    )
    models = [{"name": offer.name, "offer": offer} for offer in registration.models]
    data = [{"name": offer.name, "sha256": offer.sha256} for offer in registration.datasets]
    for table, rows in ((model_offer, models), (dataset_offer, data)):
        if rows:
            session.execute(insert(table).values(worker_id=id, project=project), rows)
    return id


def touch(session: Session, worker_id: str, *, project: str) -> bool:
    """Note that the worker is there; False when it is unknown or has left."""
    of = {"of_worker": worker_id, "of_project": project}
    return session.scalars(_TOUCH, of).one_or_none() is not None


def is_draining(session: Session, worker_id: str, *, project: str) -> bool:
    """Whether the worker is to finish what it has and leave."""
    of = {"of_worker": worker_id, "of_project": project}
    return session.scalars(_STATE, of).one_or_none() == "draining"


def get(session: Session, worker_id: str, *, project: str) -> WorkerRow:
    """The worker of that id.

    Raises:
        NotFound: no such worker, or another project's.
    """
    query = _with_load(session).where(worker.c.id == worker_id, worker.c.project == project)
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"No worker {worker_id}")
    return WorkerRow(**row._asdict())


def named(session: Session, name: str, *, project: str) -> list[WorkerId]:
    """The workers of that name; each process of a host registers under one of its own."""
    wanted = (worker.c.name == name, worker.c.project == project)
    return list(session.scalars(select(worker.c.id).where(*wanted)))


def list_page(
    session: Session, *, project: str, limit: int, after: tuple[datetime, str] | None = None
) -> list[WorkerRow]:
    """At most `limit` workers, newest first; `after` is (registered_at, id) of the last one."""
    query = _with_load(session).where(worker.c.project == project)
    if after is not None:
        at, id = literal(after[0], UtcTime), after[1]
        is_older = worker.c.registered_at < at
        query = query.where(is_older | and_(worker.c.registered_at == at, worker.c.id < id))
    newest_first = (worker.c.registered_at.desc(), worker.c.id.desc())
    rows = session.execute(query.order_by(*newest_first).limit(limit))
    return [WorkerRow(**row._asdict()) for row in rows]


def retire(session: Session, worker_id: str, *, project: str) -> bool:
    """Note that the worker has left; False when it is unknown or has left before."""
    left = (
        update(worker)
        .where(worker.c.id == worker_id, worker.c.project == project, worker.c.state != "gone")
        .values(state="gone")
        .returning(worker.c.id)
    )
    return session.scalars(left).one_or_none() is not None


def offers(session: Session, *, project: str) -> Catalogue:
    """The models and data sets of a project, with how many live workers have each."""
    n_with = _n_live_with_dataset(session, project)
    known = datasets.list_all(session, project=project)
    return Catalogue(
        models=_models(session, project),
        datasets={
            row.name: KnownDataset(row.offer, row.kind, n_with.get(row.name, 0)) for row in known
        },
    )


def losses(session: Session, *, project: str) -> frozenset[str]:
    """The losses that workers offer which have not left."""
    query = select(worker.c.registration).where(
        worker.c.project == project, worker.c.state != "gone"
    )
    return frozenset(
        offer.name for registration in session.scalars(query) for offer in registration.losses
    )


def _is_live(session: Session) -> ColumnElement[bool]:
    horizon = now(session) - timedelta(seconds=GONE_AFTER_S)
    return and_(worker.c.state != "gone", worker.c.last_seen_at >= horizon)


def _with_load(session: Session) -> Select[Any]:
    load = (
        select(
            trial.c.worker_id,
            func.count().label("n_busy"),
            func.max(trial.c.job_id).label("job_id"),
        )
        .where(trial.c.state == "running")
        .group_by(trial.c.worker_id)
        .subquery()
    )
    state = case((_is_live(session), worker.c.state), else_="gone").label("state")
    others = [column for column in worker.c if column.name != "state"]
    return select(
        *others, state, func.coalesce(load.c.n_busy, 0).label("n_busy"), load.c.job_id
    ).outerjoin(load, load.c.worker_id == worker.c.id)


def _models(session: Session, project: str) -> dict[str, OfferedModel]:
    by_name = (
        select(
            model_offer.c.name,
            func.max(model_offer.c.worker_id).label("newest"),  # ids sort by time
            func.sum(case((_is_live(session), 1), else_=0)).label("n_workers"),
        )
        .join(worker, worker.c.id == model_offer.c.worker_id)
        .where(model_offer.c.project == project)
        .group_by(model_offer.c.name)
        .subquery()
    )
    is_newest = and_(
        model_offer.c.name == by_name.c.name, model_offer.c.worker_id == by_name.c.newest
    )
    rows = session.execute(
        select(model_offer.c.name, model_offer.c.offer, by_name.c.n_workers)
        .join(by_name, is_newest)
        .order_by(model_offer.c.name)
    )
    return {name: OfferedModel(offer, n) for name, offer, n in rows}


def _n_live_with_dataset(session: Session, project: str) -> dict[str, int]:
    rows = session.execute(
        select(dataset_offer.c.name, func.count().label("n"))
        .join(worker, worker.c.id == dataset_offer.c.worker_id)
        .where(dataset_offer.c.project == project, _is_live(session))
        .group_by(dataset_offer.c.name)
    )
    return {row.name: row.n for row in rows}


# Built once: to build such a statement takes as long as to carry it out.
_TOUCH = (
    update(worker)
    .where(worker.c.id == bindparam("of_worker"), worker.c.project == bindparam("of_project"))
    .where(worker.c.state != "gone")
    .values(last_seen_at=now_expression())
    .returning(worker.c.id)
)
_STATE = select(worker.c.state).where(
    worker.c.id == bindparam("of_worker"), worker.c.project == bindparam("of_project")
)
