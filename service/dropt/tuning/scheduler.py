"""Workers and their leases: who is there, and what each trains next."""

import logging
from collections.abc import Iterable

from dropt.errors import NotFound, ProtocolUnsupported
from dropt.spec.ids import TrialId
from dropt.spec.protocol import (
    PROTOCOL,
    Heartbeat,
    HeartbeatAnswer,
    Lease,
    LeaseNews,
    LeaseRequest,
    Registered,
    Registration,
    Step,
)
from dropt.spec.results import WORKING
from dropt.storage import (
    artifacts,
    datasets,
    events,
    idempotency,
    inspections,
    jobs,
    leases,
    trials,
    workers,
)
from dropt.storage.jobs import JobRow
from dropt.storage.leases import LeaseRow
from dropt.storage.session import Session
from dropt.storage.workers import WorkerRow
from dropt.tuning.granting import AnsweredMeanwhile, grant_look, keep_answer, touch_holder
from dropt.tuning.issuing import MAX_OPEN, SEARCHED, ensure_waiting
from dropt.tuning.milestones import record_claims
from dropt.tuning.reports import give_back_trials
from dropt.tuning.service import Idempotency, Service
from dropt.tuning.work import can_do, inspect_lease, inspection_key, train_lease

logger = logging.getLogger(__name__)

MAX_MEASUREMENTS = 2000  # such a report stays below the limits of JSON bodies


def register(service: Service, registration: Registration, *, project: str) -> Registered:
    """Welcome a worker process; a restarted one registers anew.

    Raises:
        ProtocolUnsupported: it speaks another version.
        NameTaken: one of its data sets has the name of other data.
    """
    if registration.protocol != PROTOCOL:
        raise ProtocolUnsupported(
            f"protocol {registration.protocol} is not spoken here; install the trainer of this "
            f"version of dropt (protocol {PROTOCOL})",
            members={"supported": [PROTOCOL]},
        )
    with service.database.writing() as session:
        worker_id = workers.register(session, registration, project=project)
    logger.info("worker.registered", extra={"worker": worker_id, "worker_name": registration.name})
    service.wake.set()
    return Registered(
        id=worker_id,
        heartbeat_seconds=service.heartbeat_s,
        lease_seconds=service.lease_s,
        max_measurements=MAX_MEASUREMENTS,
    )


def heartbeat(
    service: Service, worker_id: str, body: Heartbeat, *, project: str
) -> HeartbeatAnswer:
    """Renew the worker and the leases that it names.

    Raises:
        NotFound: the worker is unknown or gone; it registers again and drops all work.
    """
    with service.database.writing() as session:
        renewed = leases.renew(
            session, body.leases, worker_id, project=project, lease_s=service.lease_s
        )
        if not workers.touch(session, worker_id, project=project):  # locked last, as by reports
            raise NotFound(f"No worker {worker_id}; register again")
        drain = workers.is_draining(session, worker_id, project=project)
        news = tuple(
            _news(session, service, lease_id, lease_id in renewed, project=project)
            for lease_id in body.leases
        )
    return HeartbeatAnswer(drain=drain, leases=news)


def retire(service: Service, worker_id: str, *, project: str) -> None:
    """A worker leaves: what it holds goes back, and counts as no loss.

    Raises:
        NotFound: the worker is unknown.
    """
    with service.database.writing() as session:
        workers.get(session, worker_id, project=project)
        workers.retire(session, worker_id, project=project)
    with service.database.writing() as session:  # no lease is granted to it any more
        held = leases.list_open(session, project=project, worker_id=worker_id)
        for one in sorted(held, key=lambda lease: (lease.job_id or "", lease.id)):
            lease = _locked(session, one.id, project=project)
            if lease.is_open:
                give_back_trials(session, lease, project=project)
    service.bell.ring()
    logger.info("worker.retired", extra={"worker": worker_id})


def give_back(service: Service, lease_id: str, *, project: str) -> None:
    """Close a lease; its trials wait again.

    Raises:
        NotFound: no such lease, or it is closed.
    """
    with service.database.writing() as session:
        lease = _locked(session, lease_id, project=project)
        if not lease.is_open:
            raise NotFound(f"Lease {lease_id} is closed")
        give_back_trials(session, lease, project=project)
    service.bell.ring()


def put_artifact(
    service: Service, sha256: str, stream: Iterable[bytes], *, project: str, max_bytes: int
) -> bool:
    """Store a file under its digest; False when it was there.

    Raises:
        DigestMismatch: the bytes are others.
        TooLarge: more bytes than allowed.
    """
    stored = service.artifacts.put(stream, sha256=sha256, max_bytes=max_bytes)
    with service.database.writing() as session:
        return artifacts.record(session, stored.sha256, stored.n_bytes, project=project)


def has_artifact(service: Service, sha256: str, *, project: str) -> bool:
    """Whether this project has a file of that digest."""
    with service.database.reading() as session:
        return artifacts.exists(session, sha256, project=project)


def grant(
    service: Service,
    request: LeaseRequest,
    *,
    project: str,
    idempotency_key: Idempotency | None = None,
) -> Lease | None:
    """Work for a worker, or None when there is none now.

    The same key gives the same lease again, renewed: a lost answer would park its trials.

    Raises:
        NotFound: the worker is unknown or gone.
    """
    known = _granted_before(service, idempotency_key, project=project)
    if known is not None:
        return known
    with service.database.reading() as session:
        worker = workers.get(session, request.worker, project=project)
        active = [job for job in jobs.active(session) if job.project == project]
    if worker.state == "gone":
        raise NotFound(f"Worker {request.worker} is gone; register again")
    if worker.state == "draining":
        return None
    try:
        lease = grant_look(service, worker, idempotency_key)
        for job in active:
            lease = lease or _grant_of(service, job, worker, request, idempotency_key)
    except AnsweredMeanwhile as first:
        return _renewed(service, first.lease, project=project)
    if lease is None:  # the same request may have taken all
        return _granted_before(service, idempotency_key, project=project)
    logger.debug("lease.granted", extra={"lease": lease.id, "job": lease.job})
    return lease


def _locked(session: Session, lease_id: str, *, project: str) -> LeaseRow:
    """A lease that no report changes meanwhile; its job is locked first, as everywhere."""
    lease = leases.get(session, lease_id, project=project)
    if lease.kind == "train" and lease.job_id is not None:
        jobs.lock(session, lease.job_id, project=project)
    return leases.get(session, lease_id, project=project, lock=True)


def _granted_before(service: Service, key: Idempotency | None, *, project: str) -> Lease | None:
    if key is None:
        return None
    with service.database.reading() as session:
        stored = idempotency.find(session, key.path, key.key, key.body_sha256, project=project)
    if stored is None:
        return None
    return _renewed(service, Lease.model_validate(stored.answer), project=project)


def _renewed(service: Service, lease: Lease, *, project: str) -> Lease:
    with service.database.writing() as session:
        row = leases.get(session, lease.id, project=project)
        leases.renew(session, [lease.id], row.worker_id, project=project, lease_s=service.lease_s)
    return lease.model_copy(update={"expires_in": service.lease_s})


def _grant_of(
    service: Service,
    job: JobRow,
    worker: WorkerRow,
    request: LeaseRequest,
    key: Idempotency | None,
) -> Lease | None:
    """A lease on work of this job, if it has any that this worker can do."""
    content = _content_of(service, job)
    offers = can_do(worker.registration, job.spec, content=content)
    if job.state not in WORKING or not offers:
        return None
    if job.phase == "preparing":
        return _grant_inspection(service, job, worker, key)
    if job.phase not in ("search", "evidence"):
        return None
    slots = _slots(service, job, request)
    _end_lost(service, job)
    if job.phase == "search" and job.state == "running":
        ensure_waiting(service, job, slots)
    return _grant_pack(service, job, worker, slots, key, uploaded=content is not None)


def _content_of(service: Service, job: JobRow) -> str | None:
    with service.database.reading() as session:
        row = datasets.get(session, job.spec.dataset.name, project=job.project)
    return row.name if row.kind == "uploaded" else None


def _slots(service: Service, job: JobRow, request: LeaseRequest) -> int:
    """Trials at once: what the worker has, the probe found best, and the user and search allow.

    In the search an arm has few trials open at once, and the workers share them.
    """
    assert job.space is not None
    wanted = job.spec.resources.slots
    limits = [request.slots, job.space.slots if wanted == "auto" else wanted]
    if job.phase == "search":
        n_searched = sum(arm in SEARCHED for arm in job.spec.compare.arms)
        with service.database.reading() as session:
            limits.append(-(-MAX_OPEN * n_searched // _n_workers(session, job)))
    return max(1, min(limits))


def _grant_inspection(
    service: Service, job: JobRow, worker: WorkerRow, key: Idempotency | None
) -> Lease | None:
    wanted = inspection_key(job.spec)
    with service.database.writing() as session:
        row = leases.open_lease(
            session, worker.id, "inspect", project=job.project, job_id=job.id,
            inspection_id=job.inspection_id, lease_s=service.lease_s,
        )  # fmt: skip
        claimed = inspections.claim(
            session, row.id, lambda request: request["key"] == wanted, project=job.project
        )
        if claimed is None:
            leases.discard(session, row.id, project=job.project)
            return None
        lease = inspect_lease(row, claimed)
        return _granted(session, job, lease, worker, key)


def _grant_pack(
    service: Service,
    job: JobRow,
    worker: WorkerRow,
    slots: int,
    key: Idempotency | None,
    *,
    uploaded: bool,
) -> Lease | None:
    with service.database.writing() as session:
        current = jobs.lock(session, job.id, project=job.project)
        if (current.state, current.phase) != (job.state, job.phase):
            return None
        for phase in _phases(job):
            lease = _claim(session, service, job, worker, slots, phase, uploaded=uploaded)
            if lease is not None:
                return _granted(session, job, lease, worker, key)
    return None


def _end_lost(service: Service, job: JobRow) -> None:
    """End what was lost too often; the samplers learn of it when they are built again."""
    with service.database.writing() as session:
        jobs.lock(session, job.id, project=job.project)
        lost = trials.end_lost(session, job.id, project=job.project)
        for row in lost:
            _record_loss(session, job, row.id, row.attempt)
    if lost:
        service.forget(job.id)


def _phases(job: JobRow) -> tuple[Step, ...]:
    if job.phase == "search":
        return ("search",)
    return ("shortlist", "simplify", "compare", "ablate")


def _claim(
    session: Session,
    service: Service,
    job: JobRow,
    worker: WorkerRow,
    slots: int,
    phase: Step,
    *,
    uploaded: bool,
) -> Lease | None:
    row = leases.open_lease(
        session, worker.id, "train", project=job.project, job_id=job.id, step=phase,
        slots=slots, lease_s=service.lease_s,
    )  # fmt: skip
    for alone in (False, True):
        claimed = trials.claim(
            session, row.id, worker.id, job.id, phase, project=job.project,
            limit=_share(session, job, slots, phase), alone=alone,
        )  # fmt: skip
        if claimed:
            lease = train_lease(row, job, phase, claimed, uploaded=uploaded)
            return lease.model_copy(update={"slots": 1}) if alone else lease
    leases.discard(session, row.id, project=job.project)
    return None


def _share(session: Session, job: JobRow, slots: int, phase: Step) -> int:
    """How many trials one worker takes: in the evidence its part of what waits."""
    if phase == "search":
        return slots
    counts = trials.counts(session, job.id, project=job.project)
    n_waiting = sum(n for (_, of, state), n in counts.items() if (of, state) == (phase, "waiting"))
    return max(1, min(slots, -(-n_waiting // _n_workers(session, job))))


def _n_workers(session: Session, job: JobRow) -> int:
    """Live workers that offer the model of a job, at least one."""
    model = workers.offers(session, project=job.project).models.get(job.model)
    return max(1, 0 if model is None else model.n_workers)


def _granted(
    session: Session, job: JobRow, lease: Lease, worker: WorkerRow, key: Idempotency | None
) -> Lease:
    """Write the history of a grant, and its answer under the key, in the same transaction."""
    events.record(
        session, job.id, "lease.granted", project=job.project, lease=lease.id, worker=worker.id,
        kind=lease.kind, trials=len(lease.trials),
    )  # fmt: skip
    claimed = [(TrialId(one.id), one.attempt) for one in lease.trials]
    record_claims(session, job, lease.id, claimed)
    keep_answer(session, lease, key, project=job.project)
    touch_holder(session, worker)
    return lease


def _record_loss(session: Session, job: JobRow, trial: str, attempt: int) -> None:
    events.record(
        session, job.id, "trial.failed", project=job.project, trial=trial, attempt=attempt,
        reason="worker-lost",
    )  # fmt: skip


def _news(
    session: Session, service: Service, lease_id: str, is_renewed: bool, *, project: str
) -> LeaseNews:
    if not is_renewed:
        return LeaseNews(id=lease_id, expires_in=0.0, end=True)
    held, lost = leases.given_trials(session, lease_id, project=project)
    return LeaseNews(
        id=lease_id,
        expires_in=service.lease_s,
        stop=tuple(t.id for t in held if t.stop_requested and t.state == "running"),
        cancel=tuple(t.id for t in held if t.state == "cancelled"),
        lost=tuple(lost),
    )
