"""What a job found: verdict, best configuration, arms, trials, events."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from dropt.api.caching import cached_answer
from dropt.api.deps import ProjectDep, ServiceDep
from dropt.api.paging import PageQuery, link_next, time_mark
from dropt.api.problems import problems
from dropt.errors import BadPageToken, NoResultYet, NotFound
from dropt.jobs import lists, trial_table
from dropt.spec.results import (
    ArmRead,
    BestRead,
    EventRead,
    Page,
    TrialPhase,
    TrialRead,
    TrialState,
    VerdictRead,
)

router = APIRouter(prefix="/v1", tags=["answers"])

MAX_TOP = 100
CSV = "text/csv"
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "Nothing has changed."}}


class TopQuery(BaseModel):
    """How much of the search to show."""

    top: int = Field(default=0, ge=0, le=MAX_TOP, description="The k best trials, by arm.")


class BestQuery(PageQuery):
    """Filters of recommended configurations."""

    model: str | None = None
    dataset: str | None = None


class TrialQuery(PageQuery):
    """Filters of trials."""

    arm: str | None = None
    phase: TrialPhase | None = None
    state: list[TrialState] = Field(default_factory=list)
    order_by: Literal["number", "value", "value desc"] = "number"


class EventQuery(PageQuery):
    """Filters of events."""

    after: int = Field(default=0, ge=0, description="Events with a sequence above this one.")
    type: list[str] = Field(default_factory=list)


@router.get(
    "/jobs/{job}/verdict", operation_id="get_verdict", response_model=VerdictRead,
    responses={**UNCHANGED, **problems(NotFound, NoResultYet)},
)  # fmt: skip
def get_verdict(job: str, request: Request, service: ServiceDep, project: ProjectDep) -> Response:
    """Does dropout help, and how sure are we; provisional before the end."""
    verdict = lists.verdict(service, job, project=project)
    return cached_answer(request, verdict, revision=verdict.revision)


@router.get(
    "/jobs/{job}/best", operation_id="get_best", response_model=BestRead,
    responses={**UNCHANGED, **problems(NotFound, NoResultYet)},
)  # fmt: skip
def get_best(
    job: str, query: Annotated[TopQuery, Query()], request: Request, service: ServiceDep,
    project: ProjectDep,
) -> Response:  # fmt: skip
    """The recommended configuration, and the best dropout when that is not recommended."""
    best = lists.best(service, job, project=project, top=query.top)
    return cached_answer(request, best, revision=best.revision)


@router.get("/best", operation_id="list_best")
def list_best(
    query: Annotated[BestQuery, Query()], request: Request, response: Response,
    service: ServiceDep, project: ProjectDep,
) -> Page[BestRead]:  # fmt: skip
    """The recommended configurations of finished jobs, newest first."""
    found = lists.list_best(
        service, project=project, limit=query.limit + 1, model=query.model,
        dataset=query.dataset, after=time_mark(query),
    )  # fmt: skip
    token = None
    if len(found) > query.limit:
        at, name = found[query.limit - 1][1]
        token = query.token([at.isoformat(), name])
    link_next(request, response, token)
    return Page(items=tuple(item for item, _ in found[: query.limit]), next_page_token=token)


@router.get(
    "/jobs/{job}/arms", operation_id="list_arms", response_model=Page[ArmRead],
    responses={**UNCHANGED, **problems(NotFound)},
)  # fmt: skip
def list_arms(job: str, request: Request, service: ServiceDep, project: ProjectDep) -> Response:
    """The arms of a job, each with its trials by state and the name of its study."""
    revision = lists.revision(service, job, project=project)
    arms = lists.arms(service, job, project=project)
    return cached_answer(request, Page[ArmRead](items=tuple(arms)), revision=revision)


@router.get(
    "/jobs/{job}/trials", operation_id="list_trials", response_model=Page[TrialRead],
    responses={200: {"content": {CSV: {"schema": {"type": "string"}}}}, **problems(NotFound)},
)  # fmt: skip
def list_trials(
    job: str, query: Annotated[TrialQuery, Query()], request: Request, response: Response,
    service: ServiceDep, project: ProjectDep,
) -> Page[TrialRead] | Response:  # fmt: skip
    """The trials of a job, by number or by value; `Accept: text/csv` gives all in one table."""
    if _wants_csv(request):
        lines = trial_table.csv_lines(
            service, job, project=project, arm=query.arm, phase=query.phase, states=query.state
        )
        return StreamingResponse(lines, media_type=f"{CSV}; charset=utf-8")
    by_value = query.order_by != "number"
    found = lists.trials(
        service, job, project=project, limit=query.limit + 1, by_value=by_value,
        descending=query.order_by.endswith("desc"), after=_trial_mark(query), arm=query.arm,
        phase=query.phase, states=query.state,
    )  # fmt: skip
    shown, token = found[: query.limit], None
    if len(found) > len(shown):
        last = shown[-1]
        token = query.token([last.value if by_value else last.number, last.id])
    link_next(request, response, token)
    return Page(items=tuple(shown), next_page_token=token)


@router.get("/jobs/{job}/events", operation_id="list_events", responses=problems(NotFound))
def list_events(
    job: str, query: Annotated[EventQuery, Query()], request: Request, response: Response,
    service: ServiceDep, project: ProjectDep,
) -> Page[EventRead]:  # fmt: skip
    """What happened to a job, in order; `after` goes on where another list ended."""
    found = lists.events(
        service, job, project=project, limit=query.limit + 1, after=_event_mark(query),
        types=query.type,
    )  # fmt: skip
    shown, token = found[: query.limit], None
    if len(found) > len(shown):
        token = query.token([shown[-1].sequence])
    link_next(request, response, token)
    return Page(items=tuple(shown), next_page_token=token)


def _wants_csv(request: Request) -> bool:
    """Whether the caller names CSV, and JSON not before it."""
    kinds = [
        kind.partition(";")[0].strip() for kind in request.headers.get("accept", "").split(",")
    ]
    if CSV not in kinds:
        return False
    return "application/json" not in kinds[: kinds.index(CSV)]


def _trial_mark(query: TrialQuery) -> tuple[float | None, str] | None:
    match query.position():
        case None:
            return None
        case [int() | float() | None as place, str(name)]:
            return place, name
    raise BadPageToken("The page token is not one of this list")


def _event_mark(query: EventQuery) -> int:
    match query.position():
        case None:
            return query.after
        case [int(sequence)]:
            return sequence
    raise BadPageToken("The page token is not one of this list")
