"""Jobs: submit, preview, list, follow."""

from functools import partial
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, Field

from dropt.api.caching import RETRY_AFTER_S, cached_answer, waiting_answer
from dropt.api.deps import (
    IdempotencyDep,
    ProjectDep,
    ServiceDep,
    WaitDep,
    look_until,
    note_wait,
)
from dropt.api.examples import JobBody
from dropt.api.first_worker import wait_for_first_worker
from dropt.api.paging import PageQuery, link_next, time_mark
from dropt.api.problems import problems
from dropt.errors import (
    FieldError,
    IdempotencyKeyReused,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
)
from dropt.jobs import lists, previewing, verbs
from dropt.spec.preview import PreviewRead
from dropt.spec.results import JobRead, JobState, JobSummary, Page

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class JobQuery(PageQuery):
    """Filters of jobs."""

    state: list[JobState] = Field(default_factory=list)
    model: str | None = None
    dataset: str | None = None
    label: list[str] = Field(default_factory=list, description="NAME:VALUE")
    created_after: AwareDatetime | None = None
    order_by: Literal["created_at desc"] = "created_at desc"

    def labels(self) -> list[tuple[str, str]]:
        """`team:vision` as a pair.

        Raises:
            InvalidRequest: a filter without a colon.
        """
        pairs = [text.partition(":") for text in self.label]
        if bad := [name for name, colon, _ in pairs if not colon]:
            message = "Must be NAME:VALUE, for example label=team:vision."
            raise InvalidRequest.of(FieldError("?label", "out-of-range", message, bad[0]))
        return [(name, value) for name, _, value in pairs]


@router.post(
    "", operation_id="create_job", status_code=202, response_model=JobRead,
    responses={
        200: {"description": "The job ended within the wait.", "model": JobRead},
        **problems(InvalidRequest, IdempotencyKeyReused, QuotaExceeded),
    },
)  # fmt: skip
async def create_job(
    body: JobBody, request: Request, response: Response, service: ServiceDep,
    project: ProjectDep, key: IdempotencyDep, wait_s: WaitDep,
) -> JobRead:  # fmt: skip
    """Queue a job: a model and a data set, the rest has defaults.

    Before the first worker has registered, names cannot be judged: then the request waits for
    one, up to 15 seconds.
    """
    await wait_for_first_worker(request, service, project)
    job, is_replay = await to_thread.run_sync(
        partial(verbs.submit, service, body, project=project, key=key)
    )
    if wait_s:
        job = await _watch(request, service, job.id, project, wait_s)
        response.status_code = 200 if job.done else 202
    note_wait(response, wait_s)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if not job.done:
        response.headers["Retry-After"] = f"{RETRY_AFTER_S}"
    if is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    return job


@router.post(
    "/preview", operation_id="preview_job", response_model=PreviewRead,
    responses={
        202: {"description": "A worker has yet to look at the model.", "model": PreviewRead},
        **problems(InvalidRequest),
    },
)  # fmt: skip
async def preview_job(
    body: JobBody, request: Request, service: ServiceDep, project: ProjectDep, wait_s: WaitDep
) -> Response:
    """What this job would be: defaults, space, first trials, cost; no job is stored."""
    await wait_for_first_worker(request, service, project)
    look = partial(previewing.preview, service, body, project=project)
    seen = await look_until(request, look, lambda each: each.state == "done", wait_s)
    return waiting_answer(seen, is_done=seen.state == "done", wait_s=wait_s)


@router.get("", operation_id="list_jobs")
def list_jobs(
    query: Annotated[JobQuery, Query()], request: Request, response: Response,
    service: ServiceDep, project: ProjectDep,
) -> Page[JobSummary]:  # fmt: skip
    """Jobs, newest first."""
    found = lists.list_jobs(
        service, project=project, limit=query.limit + 1, state=query.state, model=query.model,
        dataset=query.dataset, label=query.labels(), created_after=query.created_after,
        after=time_mark(query),
    )  # fmt: skip
    shown, token = found[: query.limit], None
    if len(found) > len(shown):
        token = query.token([shown[-1].created_at.isoformat(), shown[-1].id])
    link_next(request, response, token)
    return Page(items=tuple(shown), next_page_token=token)


@router.get(
    "/{job}", operation_id="get_job", response_model=JobRead,
    responses={304: {"description": "Nothing has changed."}, **problems(NotFound)},
)  # fmt: skip
async def get_job(
    job: str, request: Request, service: ServiceDep, project: ProjectDep, wait_s: WaitDep
) -> Response:
    """One job; with `Prefer: wait=N`, as it is at its end or after N seconds."""
    found = await _watch(request, service, job, project, wait_s)
    answer = cached_answer(request, found, revision=found.revision)
    note_wait(answer, wait_s)
    if not found.done:
        answer.headers["Retry-After"] = f"{RETRY_AFTER_S}"
    return answer


async def _watch(
    request: Request, service: ServiceDep, job: str, project: str, wait_s: int
) -> JobRead:
    look = partial(lists.read_job, service, job, project=project)
    return await look_until(request, look, lambda read: read.done, wait_s)
