"""What a user takes home of a job: its configuration as a file or as lines of PyTorch."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from dropt.api.caching import cached_answer
from dropt.api.deps import ProjectDep, ServiceDep
from dropt.api.problems import problems
from dropt.errors import InvalidRequest, NoResultYet, NotFound
from dropt.jobs import configs
from dropt.spec.space import Placement

router = APIRouter(prefix="/v1/jobs", tags=["answers"])


class ConfigQuery(BaseModel):
    """Which configuration, and in which form."""

    format: Literal["json", "python"] = Field(
        default="json", description="What `apply()` reads, or plain PyTorch without dropt."
    )
    arm: str | None = Field(default=None, description="Null: the recommended one.")


@router.get(
    "/{job}/best/config", operation_id="get_best_config", response_model=Placement,
    responses={
        200: {"content": {"text/x-python": {"schema": {"type": "string"}}}},
        304: {"description": "Nothing has changed."},
        **problems(NotFound, NoResultYet, InvalidRequest),
    },
)  # fmt: skip
def get_best_config(
    job: str, query: Annotated[ConfigQuery, Query()], request: Request, service: ServiceDep,
    project: ProjectDep,
) -> Response:  # fmt: skip
    """The recommended dropout as a placement, or as lines to paste beside the model."""
    if query.format == "python":
        text = configs.snippet(service, job, project=project, arm=query.arm)
        return Response(text, media_type="text/x-python; charset=utf-8")
    found, revision = configs.placement(service, job, project=project, arm=query.arm)
    return cached_answer(request, found, revision=revision)
