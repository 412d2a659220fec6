"""The pages by which a browser turns a key into a short session that may read."""

from html import escape
from typing import Annotated
from urllib.parse import quote, urlsplit

from anyio import to_thread
from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from dropt.api.deps import ServiceDep
from dropt.api.guard import SESSION_COOKIE, address_of, session_in
from dropt.api.scopes import READING
from dropt.errors import DroptError, Forbidden, HostNotAllowed, Unauthorized
from dropt.jobs import keys

router = APIRouter(include_in_schema=False)

HOME = "/dashboard/"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>dropt: log in</title>
<meta name="viewport" content="width=device-width">
<style>body {{ font: 16px/1.5 sans-serif; max-width: 34em; margin: 2em auto; padding: 0 1em }}
input {{ font: inherit; width: 100%; box-sizing: border-box; margin: .5em 0 }}</style>
<h1>Log in</h1>
<p role="alert">{problem}</p>
<form method="post" action="/login">
<label for="key">A key of this service that may read</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<input type="hidden" name="next" value="{next}">
<button>Log in</button>
</form>
<p>The session lasts 8 hours at most and can only read. The operator of the service makes keys:
<code>dropt keys new</code></p>
</html>
"""


def wants_page(scope: Scope) -> bool:
    """Whether a person looks at a browser, who can log in, and not a program."""
    accepts = Headers(scope=scope).get("accept", "")
    return scope["method"] in READING and "text/html" in accepts


def to_login(scope: Scope) -> Response:
    """The way to the login page, which leads back here."""
    return RedirectResponse(f"/login?next={quote(scope['path'])}", status_code=303)


@router.get("/login")
def show_login(next: str = HOME) -> HTMLResponse:
    """The form."""
    return _page(next)


@router.post("/login")
async def log_in(
    request: Request, service: ServiceDep, key: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = HOME,
) -> Response:  # fmt: skip
    """Open a session and go on to where the browser came from."""
    _check_origin(request)
    try:
        session, seconds = await to_thread.run_sync(
            keys.open_session, service.database, key.strip()
        )
    except Unauthorized as error:
        return _page(next, request.app.state.guard.refusal(error, address_of(request.scope)))
    except Forbidden as error:
        return _page(next, error)
    answer = RedirectResponse(_local(next), status_code=303)
    answer.set_cookie(
        SESSION_COOKIE, session, max_age=seconds, httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return answer


@router.post("/logout")
async def log_out(request: Request, service: ServiceDep) -> Response:
    """End the session of this browser."""
    _check_origin(request)
    if session := session_in(request.headers):
        await to_thread.run_sync(keys.close_session, service.database, session)
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return answer


def _page(next: str, error: DroptError | None = None) -> HTMLResponse:
    problem = "" if error is None else error.detail
    content = _PAGE.format(next=escape(_local(next), quote=True), problem=escape(problem))
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(content, 200 if error is None else error.status, headers)


def _local(next: str) -> str:
    """A path of this service, else a link to our page could lead people on to another site."""
    is_path = next.startswith("/") and not next.startswith(("//", "/\\")) and next.isprintable()
    return next if is_path and "\\" not in next else HOME


def _check_origin(request: Request) -> None:
    """Browsers name the page that sends a form; other programs name none and have no cookies."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise HostNotAllowed("This form was sent by a page of another site; open /login itself")
