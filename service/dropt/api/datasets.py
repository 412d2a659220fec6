"""Data sets and models: what a job may name, uploads, and who works."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Literal, get_args

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from dropt.api.deps import ProjectDep, ServiceDep, SettingsDep, check_room
from dropt.api.files import file_answer
from dropt.api.paging import PageQuery, link_next, page_by_name
from dropt.api.problems import problems
from dropt.api.uploads import COMMAND, Upload, prepared, upload_of
from dropt.errors import (
    DatasetUnreadable,
    FieldError,
    InUse,
    InvalidRequest,
    NameTaken,
    NotFound,
    StorageFull,
    TooLarge,
)
from dropt.jobs import catalogue, deleting
from dropt.settings import Settings
from dropt.spec.catalogue import DatasetRead
from dropt.spec.job import Task
from dropt.spec.results import Page
from dropt.tuning.service import Service

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])

MAX_FIELDS, MAX_FILES, MAX_FIELD_BYTES = 16, 4, 64 << 10
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "csv with a header, or npz"},
        "target": {"type": "string", "description": "csv: the column to predict"},
        "task": {"enum": list(get_args(Task))},
        "name": {"type": "string", "description": "default: the name of the file"},
    },
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": _FORM,
                "example": {"file": "x,y\n1,a\n2,b\n", "target": "y", "name": "tiny"},
            }
        },
    }
}


class DatasetQuery(PageQuery):
    """Filters of data sets."""

    task: Task | None = None
    kind: Literal["offered", "uploaded"] | None = None


@router.get("", operation_id="list_datasets")
def list_datasets(
    query: Annotated[DatasetQuery, Query()], request: Request, response: Response,
    service: ServiceDep, project: ProjectDep,
) -> Page[DatasetRead]:  # fmt: skip
    """The data sets that workers offer or users uploaded, by name."""
    known = [
        each
        for each in catalogue.list_datasets(service, project=project)
        if query.task in (None, each.task) and query.kind in (None, each.kind)
    ]
    page = page_by_name(query, known)
    link_next(request, response, page.next_page_token)
    return page


@router.post(
    "", operation_id="upload_dataset", status_code=201, openapi_extra=_BODY,
    description=f"Upload a data set: `{COMMAND}`. A csv target with text holds class names; "
    "whole numbers with at most 20 different values are classes; else it is a regression; "
    "`task` overrides. npz: `x`, `y`, optional `split` (0, 1, 2) and `group`.",
    responses=problems(NameTaken, DatasetUnreadable, TooLarge, StorageFull),
)  # fmt: skip
async def upload_dataset(
    request: Request, response: Response, service: ServiceDep, settings: SettingsDep,
    project: ProjectDep,
) -> DatasetRead:  # fmt: skip
    """Store a file as a data set; the documentation of the API describes the form."""
    check_room(settings)
    async with _form(request) as form:
        dataset = await to_thread.run_sync(
            partial(_store, service, settings, upload_of(form), project=project),
            limiter=request.app.state.upload_limiter,
        )
    response.headers["Location"] = f"/v1/datasets/{dataset.name}"
    return dataset


@router.get("/{dataset}", operation_id="get_dataset", responses=problems(NotFound))
def get_dataset(dataset: str, service: ServiceDep, project: ProjectDep) -> DatasetRead:
    """One data set."""
    return catalogue.read_dataset(service, dataset, project=project)


@router.get(
    "/{dataset}/content", operation_id="get_dataset_content", response_class=FileResponse,
    responses=problems(NotFound),
)  # fmt: skip
def get_content(dataset: str, service: ServiceDep, project: ProjectDep) -> FileResponse:
    """The canonical npz of an uploaded data set, whole or in ranges."""
    path = catalogue.content_path(service, dataset, project=project)
    return file_answer(path, catalogue.read_dataset(service, dataset, project=project).sha256)


@router.head(
    "/{dataset}/content", operation_id="find_dataset_content", response_class=FileResponse,
    responses=problems(NotFound),
)  # fmt: skip
def find_content(dataset: str, service: ServiceDep, project: ProjectDep) -> FileResponse:
    """Digest and size of the canonical npz."""
    return get_content(dataset, service, project)


@router.delete(
    "/{dataset}", operation_id="delete_dataset", status_code=204, response_class=Response,
    responses=problems(NotFound, InUse),
)  # fmt: skip
def delete_dataset(dataset: str, service: ServiceDep, project: ProjectDep) -> Response:
    """Delete an uploaded data set that no unfinished job trains on."""
    deleting.delete_dataset(service, dataset, project=project)
    return Response(status_code=204)


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """The form of a request; its files are closed after the block."""
    try:
        form = await request.form(
            max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
    except HTTPException as error:
        message = f"{error.detail} Send the file as a form: {COMMAND}"
        raise InvalidRequest.of(FieldError("/file", "missing-field", message)) from error
    try:
        yield form
    finally:
        await form.close()


def _store(service: Service, settings: Settings, upload: Upload, *, project: str) -> DatasetRead:
    with prepared(upload, settings) as ready:
        return catalogue.add_dataset(service, ready.offer, ready.content.read(), project=project)
