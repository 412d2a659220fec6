"""Workers and their leases: the worker protocol, version 1."""

from functools import partial

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
from dropt.api.examples import HeartbeatBody, LeaseRequestBody, RegistrationBody, ReportBody
from dropt.api.problems import problems
from dropt.errors import (
    IdempotencyKeyReused,
    InvalidRequest,
    LeaseLost,
    NameTaken,
    NotFound,
    ProtocolUnsupported,
    SequenceMismatch,
)
from dropt.spec.protocol import HeartbeatAnswer, Lease, Registered, ReportAnswer
from dropt.tuning import reports, scheduler

router = APIRouter(prefix="/v1", tags=["worker protocol"])

RETRY_AFTER_S = 2


@router.post(
    "/workers", operation_id="register_worker", status_code=201,
    responses=problems(NameTaken, ProtocolUnsupported, InvalidRequest),
)  # fmt: skip
def register_worker(
    body: RegistrationBody, service: ServiceDep, project: ProjectDep
) -> Registered:
    """Make a worker known, with everything that it offers. A restarted process registers anew."""
    return scheduler.register(service, body, project=project)


@router.post(
    "/workers/{worker}/heartbeat", operation_id="send_heartbeat",
    responses=problems(NotFound, InvalidRequest),
)  # fmt: skip
def send_heartbeat(
    worker: str, body: HeartbeatBody, service: ServiceDep, project: ProjectDep
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


@router.post(
    "/leases", operation_id="request_lease", response_model=Lease,
    responses={
        204: {"description": "Nothing to do now; `Retry-After` says when to ask again."},
        **problems(NotFound, InvalidRequest, IdempotencyKeyReused),
    },
)  # fmt: skip
async def request_lease(
    body: LeaseRequestBody,
    request: Request,
    response: Response,
    service: ServiceDep,
    project: ProjectDep,
    key: IdempotencyDep,
    wait_s: WaitDep,
) -> Lease | Response:
    """Work for a worker. Repeat a lost request with the same `Idempotency-Key`."""
    ask = partial(scheduler.grant, service, body, project=project, idempotency_key=key)
    lease = await look_until(request, ask, lambda found: found is not None, wait_s)
    answer = Response(status_code=204, headers={"Retry-After": f"{RETRY_AFTER_S}"})
    note_wait(response if lease is not None else answer, wait_s)
    return answer if lease is None else lease


@router.post(
    "/leases/{lease}/reports", operation_id="send_report",
    responses=problems(NotFound, LeaseLost, SequenceMismatch, InvalidRequest),
)  # fmt: skip
def send_report(
    lease: str, body: ReportBody, body_sha256: BodyDigestDep, service: ServiceDep,
    project: ProjectDep,
) -> ReportAnswer:  # fmt: skip
    """What was measured and what ended; stored whole or not at all."""
    return reports.take_report(service, lease, body, body_sha256, project=project)


@router.delete(
    "/leases/{lease}", operation_id="give_lease_back", status_code=204,
    responses=problems(NotFound),
)  # fmt: skip
def give_lease_back(lease: str, service: ServiceDep, project: ProjectDep) -> None:
    """Give the trials of a lease back; they wait for another worker."""
    scheduler.give_back(service, lease, project=project)
