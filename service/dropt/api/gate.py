"""The one gate in front of everything, mounts included: who asks, what is asked, with what body.

Dependencies of FastAPI do not reach mounts (`DELETE /dashboard/api/studies/1` deleted a study
there), so whatever must hold for every request is decided here, in plain ASGI.
"""

import logging
import shlex
import time
from dataclasses import dataclass
from functools import partial

import anyio
import structlog
from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dropt.api.dashboard import is_dashboard
from dropt.api.guard import Guard
from dropt.api.json_check import JsonLimits, check_json
from dropt.api.login import to_login, wants_page
from dropt.api.problems import problem_response, request_id
from dropt.errors import (
    DashboardReadOnly,
    DroptError,
    Internal,
    JsonExpected,
    NotJson,
    SlowBody,
    TooLarge,
    Unauthorized,
    UnsafeJson,
)
from dropt.settings import Settings
from dropt.spec.ids import new_id

LONG_BODY_BYTES = 64 * 1024  # from here on, checking takes over 2 ms: not on the event loop
MAX_ECHO_BYTES = 1_000  # of a body that is put into the corrected command
FORMS = {("POST", "/login"), ("POST", "/logout")}  # what browsers send from our own pages
MAX_FORM_BYTES = 4_096
EXAMPLE_BODY = '{"model": "mlp", "dataset": "digits"}'

logger = logging.getLogger(__name__)


class Gate:
    """Pure ASGI: it sees every request before routes and mounts do, and every answer after."""

    def __init__(self, app: ASGIApp, settings: Settings, guard: Guard) -> None:
        self._app = app
        self._guard = guard
        self._settings = settings
        self._json = JsonLimits(settings.limit_json_depth, settings.limit_json_nodes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = new_id("req").removeprefix("req_")
        answer = _Answer(send, name)
        token, started_at = request_id.set(name), time.perf_counter()
        with structlog.contextvars.bound_contextvars(request=name):
            try:
                admitted = await self._admit(scope, receive)
                await self._app(scope, admitted, self._guard.watched(scope, answer))
            except ClientDisconnect:
                logger.debug("request.abandoned", extra={"path": scope["path"]})
            except Unauthorized as error:
                await answer.refuse(error, scope, receive)
            except DroptError as error:
                await answer.fail(error, scope, receive)
            except Exception as error:  # the ASGI edge: nothing may pass it
                logger.exception("request.failed", extra={"path": scope["path"]})
                problem = Internal("The service failed; the request id finds it in the log")
                await answer.fail(problem, scope, receive, cause=error)
            finally:
                request_id.reset(token)
                _log(scope, answer, time.perf_counter() - started_at)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """Let a request in and return what its body is to be read from, or raise."""
        await self._guard.admit(scope)
        headers, method, path = Headers(scope=scope), scope["method"], scope["path"]
        if is_dashboard(path) and method not in ("GET", "HEAD"):
            raise DashboardReadOnly(
                "The dashboard shows studies and changes nothing",
                members={"allow": ["GET", "HEAD"]},
            )
        body = _Body(receive, self._settings.limit_body_seconds)
        if limit := self._stream_limit(method, path):
            _check_length(headers, limit, "file")
            return partial(body.counted, limit=limit)
        if not _has_body(headers):
            return receive
        if (method, path) in FORMS:
            _check_length(headers, MAX_FORM_BYTES, "form")
            return partial(body.counted, limit=MAX_FORM_BYTES, what="form")
        return await self._checked_json(scope, headers, body)

    def _stream_limit(self, method: str, path: str) -> int | None:
        """The largest body of the two routes whose bodies are files, None for all others."""
        if method == "POST" and path == "/v1/datasets":
            return self._settings.limit_upload_bytes
        if method == "PUT" and path.startswith("/v1/artifacts/"):
            return self._settings.limit_artifact_bytes
        return None

    async def _checked_json(self, scope: Scope, headers: Headers, body: "_Body") -> Receive:
        limit = self._settings.limit_json_bytes
        _check_length(headers, limit, "JSON body")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            start = await body.start() if _is_short(headers) else b""
            raise JsonExpected(self._hint(scope, headers, start))
        content = await body.whole(limit)
        if len(content) < LONG_BODY_BYTES:
            check_json(content, self._json)
        else:
            await to_thread.run_sync(check_json, content, self._json)
        return _Replay(content, body.receive)

    def _hint(self, scope: Scope, headers: Headers, start: bytes) -> str:
        """The command that would have been right, with the body sent if it is one."""
        try:
            check_json(start, self._json)
            example = start.decode()
        except (NotJson, UnsafeJson):
            example = EXAMPLE_BODY
        method = "" if scope["method"] == "POST" else f"-X {scope['method']} "
        url = shlex.quote(headers.get("host", "localhost") + scope["path"])
        received = headers.get("content-type") or "none"
        return (
            f"Content-Type is {received}; send JSON, for example: "
            f"curl {method}--json {shlex.quote(example)} {url}"
        )


@dataclass
class _Answer:
    """The way out: names the request on every answer and remembers whether one has begun."""

    send: Send
    request: str
    status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request
            headers.setdefault("X-Content-Type-Options", "nosniff")
            headers.setdefault("Content-Security-Policy", "frame-ancestors 'none'")
        await self.send(message)

    async def refuse(self, error: Unauthorized, scope: Scope, receive: Receive) -> None:
        """Lead a browser to the login page, tell a program; end what has begun where it is."""
        if self.status is not None:
            await self({"type": "http.response.body", "body": b""})
        elif wants_page(scope):
            await to_login(scope)(scope, receive, self)
        else:
            await self.fail(error, scope, receive)

    async def fail(
        self, error: DroptError, scope: Scope, receive: Receive, *, cause: Exception | None = None
    ) -> None:
        """Answer with a problem; an answer that has begun can only be broken off."""
        if self.status is not None:
            raise cause or error
        await problem_response(error, scope["path"])(scope, receive, self)


@dataclass
class _Body:
    """The way in of a body, with a limit on its bytes and on the time between them."""

    receive: Receive
    patience_s: float
    n_bytes: int = 0

    async def whole(self, limit: int) -> bytes:
        parts, more = [], True
        while more:
            message = await self.counted(limit=limit, what="JSON body")
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        return b"".join(parts)

    async def start(self) -> bytes:
        message = await self.counted(limit=MAX_ECHO_BYTES)
        return bytes(message.get("body", b""))

    async def counted(self, *, limit: int, what: str = "file") -> Message:
        try:
            with anyio.fail_after(self.patience_s):
                message = await self.receive()
        except TimeoutError as error:
            raise SlowBody(
                f"No byte of the body came for {self.patience_s:g} seconds; send it again"
            ) from error
        self.n_bytes += len(message.get("body", b""))
        if self.n_bytes > limit:
            raise _too_large(what, limit)
        return message


@dataclass
class _Replay:
    """A body that has been read, handed on as if it came now."""

    content: bytes
    receive: Receive
    is_sent: bool = False

    async def __call__(self) -> Message:
        if self.is_sent:
            return await self.receive()
        self.is_sent = True
        return {"type": "http.request", "body": self.content, "more_body": False}


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _length(headers: Headers) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _is_short(headers: Headers) -> bool:
    return (_length(headers) or MAX_ECHO_BYTES + 1) <= MAX_ECHO_BYTES


def _check_length(headers: Headers, limit: int, what: str) -> None:
    if (_length(headers) or 0) > limit:
        raise _too_large(what, limit)


def _too_large(what: str, limit: int) -> TooLarge:
    return TooLarge(f"The {what} is larger than {limit:,} bytes", members={"limit_bytes": limit})


def _log(scope: Scope, answer: _Answer, seconds: float) -> None:
    data = {
        "method": scope["method"],
        "path": scope["path"],
        "status": answer.status,
        "ms": round(1000 * seconds, 1),
    }
    logger.info("request.answered", extra=data)
