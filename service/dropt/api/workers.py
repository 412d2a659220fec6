"""Workers and their leases: the worker protocol, version 1."""

from fastapi import APIRouter, Request, Response

from dropt.api.deps import (
    BodyDigestDep,
    IdempotencyDep,
    ProjectDep,
    ServiceDep,
    WaitDep,
    look_until,
    note_wait,
)
from dropt.api.examples import HEARTBEAT, LEASE_REQUEST, REGISTRATION, REPORT, Example
from dropt.api.problems import problems
from dropt.errors import (
    InvalidRequest,
    LeaseLost,
    NameTaken,
    NotFound,
    ProtocolUnsupported,
    SequenceMismatch,
)
from dropt.spec.protocol import (
    Heartbeat,
    HeartbeatAnswer,
    Lease,
    LeaseRequest,
    Registered,
    Registration,
    Report,
    ReportAnswer,
)
from dropt.tuning import reports, scheduler

router = APIRouter(prefix="/v1", tags=["worker protocol"])

RETRY_AFTER_S = 2


@router.post(
    "/workers", operation_id="register_worker", status_code=201,
    responses=problems(NameTaken, ProtocolUnsupported, InvalidRequest),
)  # fmt: skip
def register_worker(
    body: Example(Registration, REGISTRATION), service: ServiceDep, project: ProjectDep
) -> Registered:
    """Make a worker known, with everything that it offers. A restarted process registers anew."""
    return scheduler.register(service, body, project=project)


@router.post(
    "/workers/{worker}/heartbeat", operation_id="send_heartbeat",
    responses=problems(NotFound, InvalidRequest),
)  # fmt: skip
def send_heartbeat(
    worker: str, body: Example(Heartbeat, HEARTBEAT), service: ServiceDep, project: ProjectDep
) -> HeartbeatAnswer:
    """Renew the worker and each lease named; 404: register again and drop all work."""
    return scheduler.heartbeat(service, worker, body, project=project)


@router.delete(
    "/workers/{worker}", operation_id="retire_worker", status_code=204,
    responses=problems(NotFound),
)  # fmt: skip
def retire_worker(worker: str, service: ServiceDep, project: ProjectDep) -> None:
    """The worker goes; what it holds is given back."""
    scheduler.retire(service, worker, project=project)
