"""Leases to look at a model that no job asked for, and how a lease is kept under its key."""

from collections.abc import Mapping
from typing import Any

from dropt.errors import NotFound
from dropt.spec.job import JobSpec
from dropt.spec.protocol import Lease
from dropt.storage import idempotency, inspections, leases, workers
from dropt.storage.session import Session
from dropt.storage.workers import WorkerRow
from dropt.tuning.service import Idempotency, Service
from dropt.tuning.work import can_do, inspect_lease


class AnsweredMeanwhile(Exception):
    """The same request was sent again, and one of the two has got its lease: it is for both."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease.id)
        self.lease = lease


def grant_look(service: Service, worker: WorkerRow, key: Idempotency | None) -> Lease | None:
    """The oldest look that somebody waits for and this worker can do; it takes a moment.

    Raises:
        AnsweredMeanwhile: the request got a lease in another thread.
    """
    with service.database.reading() as session:
        free = inspections.list_free(session, project=worker.project)
    keys = [request["key"] for request in free if _suits(worker, request)]
    if not keys:
        return None
    with service.database.writing() as session:
        wanted = inspections.find(session, keys[0], project=worker.project)
        assert wanted is not None  # they are never deleted
        row = leases.open_lease(
            session, worker.id, "inspect", project=worker.project, inspection_id=wanted.id,
            lease_s=service.lease_s,
        )  # fmt: skip
        claimed = inspections.claim(
            session, row.id, lambda request: request["key"] == wanted.key, project=worker.project
        )
        if claimed is None:
            leases.discard(session, row.id, project=worker.project)
            return None
        lease = inspect_lease(row, claimed)
        keep_answer(session, lease, key, project=worker.project)
        touch_holder(session, worker)
        return lease


def touch_holder(session: Session, worker: WorkerRow) -> None:
    """The end of a transaction that grants a lease: only to a worker that has not left meanwhile.

    Else nobody would give the lease back, and its trials would wait until it expires.

    Raises:
        NotFound: the worker has left; nothing is granted.
    """
    if not workers.touch(session, worker.id, project=worker.project):
        raise NotFound(f"Worker {worker.id} is gone; register again")


def keep_answer(session: Session, lease: Lease, key: Idempotency | None, *, project: str) -> None:
    """Store a lease as the answer to its request, in the transaction that grants it."""
    if key is None:
        return
    first = idempotency.reserve(session, key.path, key.key, key.body_sha256, project=project)
    if first is not None:
        raise AnsweredMeanwhile(Lease.model_validate(first.answer))
    idempotency.store(
        session, key.path, key.key, key.body_sha256, 200, {},
        lease.model_dump(mode="json", by_alias=True), project=project,
    )  # fmt: skip


def _suits(worker: WorkerRow, request: Mapping[str, Any]) -> bool:
    """Whether nobody but the user waits for a look, and the worker can do it."""
    if request.get("spec") is None:  # that of a job is granted with the job
        return False
    spec = JobSpec.model_validate(request["spec"])
    return can_do(worker.registration, spec, content=request["dataset"]["content"])
