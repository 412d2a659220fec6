"""Keys of the caller's project: make one, list them, revoke one."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from dropt.api.deps import ProjectDep, ServiceDep
from dropt.api.examples import KeyBody
from dropt.api.paging import PageQuery, link_next, time_mark
from dropt.api.problems import problems
from dropt.errors import Forbidden, InvalidRequest, NotFound
from dropt.jobs import keys
from dropt.spec.keys import KeyMade, KeyRead
from dropt.spec.results import Page

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post(
    "", operation_id="create_key", status_code=201,
    responses=problems(Forbidden, InvalidRequest),
)  # fmt: skip
def create_key(
    body: KeyBody, response: Response, service: ServiceDep, project: ProjectDep
) -> KeyMade:
    """Make a key. Its text is in this answer and nowhere else; keep it where secrets are kept."""
    made = keys.make(
        service.database, project=project, name=body.name, scopes=body.scopes,
        expires_at=body.expires_at,
    )  # fmt: skip
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("", operation_id="list_keys", responses=problems(Forbidden))
def list_keys(
    query: Annotated[PageQuery, Query()], request: Request, response: Response,
    service: ServiceDep, project: ProjectDep,
) -> Page[KeyRead]:  # fmt: skip
    """The keys that are not revoked, newest first, without their secrets."""
    found = keys.list_keys(
        service.database, project=project, limit=query.limit + 1, after=time_mark(query)
    )
    shown, token = found[: query.limit], None
    if len(found) > len(shown):
        token = query.token([shown[-1].created_at.isoformat(), shown[-1].id])
    link_next(request, response, token)
    return Page(items=tuple(shown), next_page_token=token)


@router.delete(
    "/{key}", operation_id="revoke_key", status_code=204,
    responses=problems(Forbidden, NotFound),
)  # fmt: skip
def revoke_key(key: str, service: ServiceDep, project: ProjectDep) -> None:
    """End a key at once, and every session that a browser opened with it."""
    keys.revoke(service.database, key, project=project)
