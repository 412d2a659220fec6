"""Models and workers: who can train what."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from dropt.api.deps import ProjectDep, ServiceDep
from dropt.api.paging import PageQuery, link_next, page_by_name, time_mark
from dropt.api.problems import problems
from dropt.errors import NotFound
from dropt.jobs import catalogue
from dropt.spec.catalogue import ModelRead, WorkerRead
from dropt.spec.job import Task
from dropt.spec.nearest import did_you_mean
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
