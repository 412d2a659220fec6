"""Files by the SHA-256 of their bytes: per-example scores, later checkpoints and weights."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated

from anyio import from_thread, to_thread
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse

from dropt.api.deps import ProjectDep, ServiceDep, SettingsDep, check_room
from dropt.api.files import file_answer
from dropt.api.problems import problems
from dropt.errors import DigestMismatch, NotFound, StorageFull, TooLarge
from dropt.tuning import scheduler
from dropt.tuning.service import Service

router = APIRouter(prefix="/v1/artifacts", tags=["worker protocol"])

DigestPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256, hexadecimal.")]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    }
}


@router.put(
    "/{sha256}", operation_id="put_artifact", status_code=201, openapi_extra=_BODY,
    response_class=Response,
    responses={
        200: {"description": "It was there."},
        **problems(DigestMismatch, TooLarge, StorageFull),
    },
)  # fmt: skip
async def put_artifact(
    sha256: DigestPath, request: Request, service: ServiceDep, settings: SettingsDep,
    project: ProjectDep,
) -> Response:  # fmt: skip
    """Upload a file, before the report that names it. The bytes go to the disk as they come."""
    check_room(settings)
    is_new = await to_thread.run_sync(
        partial(
            scheduler.put_artifact, service, sha256, _chunks(request.stream()), project=project,
            max_bytes=settings.limit_artifact_bytes,
        ),
        limiter=request.app.state.upload_limiter,
    )  # fmt: skip
    return Response(status_code=201 if is_new else 200)


@router.head(
    "/{sha256}", operation_id="find_artifact", response_class=Response,
    responses=problems(NotFound),
)  # fmt: skip
def find_artifact(sha256: DigestPath, service: ServiceDep, project: ProjectDep) -> Response:
    """Whether the file is there."""
    _require(service, sha256, project)
    return Response(headers={"Content-Length": f"{service.artifacts.path(sha256).stat().st_size}"})


@router.get(
    "/{sha256}", operation_id="get_artifact", response_class=FileResponse,
    responses=problems(NotFound),
)  # fmt: skip
def get_artifact(sha256: DigestPath, service: ServiceDep, project: ProjectDep) -> FileResponse:
    """The file, whole or in ranges."""
    _require(service, sha256, project)
    return file_answer(service.artifacts.path(sha256), sha256)


def _require(service: Service, sha256: str, project: str) -> None:
    if not scheduler.has_artifact(service, sha256, project=project):
        raise NotFound(f"No artifact {sha256}")


def _chunks(stream: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The stream of the event loop, for the thread that stores it."""

    async def following() -> bytes | None:
        return await anext(stream, None)

    while (chunk := from_thread.run(following)) is not None:
        yield chunk
