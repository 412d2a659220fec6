"""What can be done with a job that is there: its verbs, its changes, its deletion."""

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import ValidationError

from dropt.api.caching import RETRY_AFTER_S, cached_answer
from dropt.api.deps import IdempotencyDep, ProjectDep, ServiceDep
from dropt.api.examples import CancelBody, ChangeBody, CloneBody, ExtensionBody, StopBody
from dropt.api.problems import problems
from dropt.api.validation import invalid_body
from dropt.errors import (
    BadState,
    FieldError,
    IdempotencyKeyReused,
    InvalidRequest,
    JobAlreadyFinished,
    NotFound,
    QuotaExceeded,
    StaleRevision,
    StillRunning,
)
from dropt.jobs import changing, cloning, deleting, extending, verbs
from dropt.spec.changes import Cancel, JobChange, Stop
from dropt.spec.job import JobCreate
from dropt.spec.results import JobRead

router = APIRouter(prefix="/v1/jobs/{job}", tags=["jobs"])

NO_REASON, WITH_EVIDENCE = Cancel(), Stop()
IMMUTABLE = tuple(name for name in JobCreate.model_fields if name not in JobChange.model_fields)
_TAG = re.compile(r'W/"(\d{1,18})\.[0-9a-f]+"')
_SAME: dict[int | str, dict[str, Any]] = {
    200: {"description": "Nothing had to change.", "model": JobRead}
}


@router.patch(
    "", operation_id="change_job", response_model=JobRead,
    responses=problems(NotFound, StaleRevision, InvalidRequest),
)  # fmt: skip
def change_job(
    job: str, body: ChangeBody, request: Request, service: ServiceDep, project: ProjectDep,
    if_match: Annotated[str | None, Header(alias="If-Match")] = None,
) -> Response:  # fmt: skip
    """Change name, labels, priority or listener; with `If-Match`, only what was read.

    Progress alone gives a job no new revision. Anything else of a job is fixed: extend it, or
    clone it with the difference.
    """
    revision = None if if_match in (None, "*") else _revision(if_match or "")
    read = changing.change(service, job, _change(body), project=project, revision=revision)
    return cached_answer(request, read, revision=read.revision)


@router.post(
    "/pause", operation_id="pause_job", status_code=202, response_model=JobRead,
    responses={**_SAME, **problems(NotFound, BadState)},
)  # fmt: skip
def pause_job(job: str, response: Response, service: ServiceDep, project: ProjectDep) -> JobRead:
    """Start no new trials; running ones finish."""
    return _told(response, lambda: verbs.pause(service, job, project=project))


@router.post(
    "/resume", operation_id="resume_job", status_code=202, response_model=JobRead,
    responses={**_SAME, **problems(NotFound, BadState)},
)  # fmt: skip
def resume_job(job: str, response: Response, service: ServiceDep, project: ProjectDep) -> JobRead:
    """Go on after a pause, or after a failure that is `retryable`."""
    return _told(response, lambda: verbs.resume(service, job, project=project))


@router.post(
    "/stop", operation_id="stop_job", status_code=202, response_model=JobRead,
    responses={**_SAME, **problems(NotFound, BadState, JobAlreadyFinished, InvalidRequest)},
)  # fmt: skip
def stop_job(
    job: str, response: Response, service: ServiceDep, project: ProjectDep,
    body: StopBody = WITH_EVIDENCE,
) -> JobRead:  # fmt: skip
    """End the search now and decide with what there is; running trials may end."""
    work = partial(verbs.stop, service, job, project=project, evidence=body.evidence)
    return _told(response, work)


@router.post(
    "/cancel", operation_id="cancel_job", status_code=202, response_model=JobRead,
    responses={**_SAME, **problems(NotFound, JobAlreadyFinished, InvalidRequest)},
)  # fmt: skip
def cancel_job(
    job: str, response: Response, service: ServiceDep, project: ProjectDep,
    body: CancelBody = NO_REASON,
) -> JobRead:  # fmt: skip
    """Drop the running trials of a job at once; what it found so far is kept."""
    work = partial(verbs.cancel, service, job, project=project, reason=body.reason)
    return _told(response, work)


@router.post(
    "/extend", operation_id="extend_job", status_code=202, response_model=JobRead,
    responses=problems(NotFound, BadState, InvalidRequest, IdempotencyKeyReused, QuotaExceeded),
)  # fmt: skip
def extend_job(
    job: str, body: ExtensionBody, response: Response, service: ServiceDep, project: ProjectDep,
    key: IdempotencyDep,
) -> JobRead:  # fmt: skip
    """Add trials or time, or ask for a new verdict from new seeds; also after the end."""
    return _made(response, *extending.extend(service, job, body, project=project, key=key))


@router.post(
    "/clone", operation_id="clone_job", status_code=202, response_model=JobRead,
    responses=problems(NotFound, InvalidRequest, IdempotencyKeyReused, QuotaExceeded),
)  # fmt: skip
def clone_job(
    job: str, body: CloneBody, response: Response, service: ServiceDep, project: ProjectDep,
    key: IdempotencyDep,
) -> JobRead:  # fmt: skip
    """Queue a new job from the body of this one, with what differs merged in."""
    merged, origin = cloning.body_of_clone(
        service, job, body.model_extra or {}, project=project, warm_start=body.warm_start
    )
    try:
        asked = JobCreate.model_validate(merged)
    except ValidationError as error:
        raise invalid_body(error.errors(), JobCreate, merged) from error
    made = verbs.submit(service, asked, project=project, key=key, origin=origin)
    return _made(response, *made)


@router.delete(
    "", operation_id="delete_job", status_code=204, response_class=Response,
    responses=problems(NotFound, StillRunning),
)  # fmt: skip
def delete_job(
    job: str, service: ServiceDep, project: ProjectDep,
    force: Annotated[bool, Query(description="Also while it runs.")] = False,
) -> Response:  # fmt: skip
    """Delete a job with its trials, events, verdicts, studies and files."""
    deleting.delete_job(service, job, project=project, force=force)
    return Response(status_code=204)


def _told(response: Response, work: Callable[[], tuple[JobRead, bool]]) -> JobRead:
    read, changed = work()
    response.status_code = 202 if changed else 200
    return read


def _made(response: Response, read: JobRead, is_replay: bool) -> JobRead:
    response.headers["Location"] = f"/v1/jobs/{read.id}"
    if not read.done:
        response.headers["Retry-After"] = f"{RETRY_AFTER_S}"
    if is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    return read


def _revision(tag: str) -> int:
    """The revision in an entity tag of ours.

    Raises:
        StaleRevision: it is none of a job, so no job can match it.
    """
    found = _TAG.fullmatch(tag.strip())
    if found is None:
        raise StaleRevision("If-Match takes the ETag of the job as it was read")
    return int(found[1])


def _change(body: dict[str, Any]) -> JobChange:
    """The body of a change; fields of a job that cannot change have their own code."""
    message = "It is fixed once the job is queued; extend the job, or clone it with the change."
    fixed = [
        FieldError(f"/{name}", "immutable-field", message) for name in IMMUTABLE if name in body
    ]
    if fixed:
        raise InvalidRequest.of(*fixed)
    try:
        return JobChange.model_validate(body)
    except ValidationError as error:
        raise invalid_body(error.errors(), JobChange, body) from error
