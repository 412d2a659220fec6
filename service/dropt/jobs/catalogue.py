"""What a job may name, and who works: models, data sets, workers."""

from datetime import datetime
from pathlib import Path

from dropt.errors import NotFound
from dropt.spec.catalogue import DatasetRead, ModelRead, WorkerRead
from dropt.spec.protocol import DatasetOffer
from dropt.storage import artifacts, datasets, workers
from dropt.storage.workers import WorkerRow
from dropt.tuning.service import Service


def is_empty(service: Service, *, project: str) -> bool:
    """Whether no worker has ever registered: names cannot be judged then."""
    with service.database.reading() as session:
        return not workers.offers(session, project=project).models


def list_models(service: Service, *, project: str) -> list[ModelRead]:
    """The models that workers offer or have offered, by name."""
    with service.database.reading() as session:
        known = workers.offers(session, project=project).models
    return [ModelRead.of(one.offer, one.n_workers) for _, one in sorted(known.items())]


def list_datasets(service: Service, *, project: str) -> list[DatasetRead]:
    """The data sets that can be named, by name."""
    with service.database.reading() as session:
        known = workers.offers(session, project=project).datasets
    return [DatasetRead.of(one.offer, one.kind, one.n_workers) for _, one in sorted(known.items())]


def read_dataset(service: Service, name: str, *, project: str) -> DatasetRead:
    """One data set. Raises NotFound."""
    for one in list_datasets(service, project=project):
        if one.name == name:
            return one
    raise NotFound(f"No data set named '{name}'")


def list_workers(
    service: Service, *, project: str, limit: int, after: tuple[datetime, str] | None = None
) -> list[tuple[WorkerRead, tuple[datetime, str]]]:
    """At most `limit` workers, newest first, with the marks for the next page."""
    with service.database.reading() as session:
        rows = workers.list_page(session, project=project, limit=limit, after=after)
    return [(_worker_read(row), (row.registered_at, row.id)) for row in rows]


def add_dataset(
    service: Service, offer: DatasetOffer, content: bytes, *, project: str
) -> DatasetRead:
    """Keep an uploaded data set; `content` is its canonical npz, whose digest the offer names.

    Raises:
        NameTaken: the name stands for other data.
        DigestMismatch: the digest is that of other bytes.
    """
    stored = service.artifacts.put([content], sha256=offer.sha256)
    with service.database.writing() as session:
        artifacts.record(session, stored.sha256, stored.n_bytes, project=project)
        row = datasets.insert_uploaded(session, offer, stored.n_bytes, project=project)
    return DatasetRead.of(row.offer, "uploaded", 0)


def content_path(service: Service, name: str, *, project: str) -> Path:
    """The canonical npz of an uploaded data set.

    Raises:
        NotFound: no such data set, or workers have it and nobody uploaded it.
    """
    with service.database.reading() as session:
        row = datasets.get(session, name, project=project)
    if row.kind != "uploaded":
        raise NotFound(f"Data set '{name}' comes with the workers; its content is not here")
    return service.artifacts.path(row.sha256)


def _worker_read(row: WorkerRow) -> WorkerRead:
    registration = row.registration
    return WorkerRead(
        id=row.id, name=row.name, state=row.state, device=registration.device,
        slots_busy=row.n_busy, slots_total=registration.max_slots, job=row.job_id,
        last_seen=row.last_seen_at, versions=registration.versions,
    )  # fmt: skip
