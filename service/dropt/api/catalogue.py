"""Models and workers: who can train what."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from dropt.api.caching import waiting_answer
from dropt.api.deps import ProjectDep, ServiceDep, WaitDep, look_until
from dropt.api.examples import LookBody
from dropt.api.first_worker import wait_for_first_worker
from dropt.api.paging import PageQuery, link_next, page_by_name, time_mark
from dropt.api.problems import problems
from dropt.errors import InvalidRequest, NotFound
from dropt.jobs import catalogue, looking
from dropt.spec.catalogue import ModelRead, WorkerRead
from dropt.spec.inspection import Inspection
from dropt.spec.job import Task
from dropt.spec.nearest import did_you_mean
from dropt.spec.preview import LookPending
from dropt.spec.results import Page

router = APIRouter(prefix="/v1", tags=["models and workers"])


class ModelQuery(PageQuery):
    """Filters of models."""

    task: Task | None = None


@router.get("/models", operation_id="list_models")
def list_models(
    query: Annotated[ModelQuery, Query()], request: Request, response: Response,
    service: ServiceDep, project: ProjectDep,
) -> Page[ModelRead]:  # fmt: skip
    """The models that workers offer, by name."""
    known = [
        each
        for each in catalogue.list_models(service, project=project)
        if query.task is None or query.task in each.tasks
    ]
    page = page_by_name(query, known)
    link_next(request, response, page.next_page_token)
    return page


@router.get("/models/{model}", operation_id="get_model", responses=problems(NotFound))
def get_model(model: str, service: ServiceDep, project: ProjectDep) -> ModelRead:
    """One model with the JSON Schema of its arguments."""
    known = {each.name: each for each in catalogue.list_models(service, project=project)}
    if model not in known:
        raise NotFound(f"No worker offers a model of this name.{did_you_mean(model, known)}")
    return known[model]


@router.post(
    "/models/{model}/inspect", operation_id="inspect_model", response_model=Inspection,
    responses={
        202: {"description": "A worker has yet to look: ask again.", "model": LookPending},
        **problems(NotFound, InvalidRequest),
    },
)  # fmt: skip
async def inspect_model(
    model: str, body: LookBody, request: Request, service: ServiceDep, project: ProjectDep,
    wait_s: WaitDep,
) -> Response:  # fmt: skip
    """The sites of a model on a data set, what was refused, and what the linter says.

    A worker looks once; then the answer is kept for the same model, arguments and data.
    """
    await wait_for_first_worker(request, service, project)
    look = partial(looking.inspect, service, model, body, project=project)
    found = await look_until(request, look, lambda seen: isinstance(seen, Inspection), wait_s)
    return waiting_answer(found, is_done=isinstance(found, Inspection), wait_s=wait_s)


@router.get("/workers", operation_id="list_workers")
def list_workers(
    query: Annotated[PageQuery, Query()], request: Request, response: Response,
    service: ServiceDep, project: ProjectDep,
) -> Page[WorkerRead]:  # fmt: skip
    """The workers, newest first."""
    found = catalogue.list_workers(
        service, project=project, limit=query.limit + 1, after=time_mark(query)
    )
    token = None
    if len(found) > query.limit:
        at, name = found[query.limit - 1][1]
        token = query.token([at.isoformat(), name])
    link_next(request, response, token)
    return Page(items=tuple(item for item, _ in found[: query.limit]), next_page_token=token)
