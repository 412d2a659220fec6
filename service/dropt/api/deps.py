"""What routes are given: the service, the project, and what the headers of a request ask."""

import hashlib
import re
import shutil
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio
from anyio import to_thread
from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

from dropt.api.guard import CALLER
from dropt.api.validation import invalid, unknown_name
from dropt.errors import FieldError, InvalidRequest, StorageFull
from dropt.jobs.keys import Caller
from dropt.settings import Settings
from dropt.tuning.service import Idempotency, Service

MAX_WAIT_S = 60
MAX_KEY_LENGTH = 255
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 0.5  # between two looks of a request that waits
_WAIT = re.compile(r"\bwait=(\d{1,9})\b")

Seen = TypeVar("Seen")


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _project(request: Request) -> str:
    caller: Caller = request.scope[CALLER]  # the guard let nobody else in
    return caller.project


async def _digest(request: Request) -> str:
    return hashlib.sha256(await request.body()).hexdigest()


async def _wait(
    prefer: Annotated[str, Header(alias="Prefer", description="`wait=N`: up to N seconds.")] = "",
) -> int:
    """The seconds that the caller is ready to wait (RFC 7240); what is unknown is ignored."""
    found = _WAIT.search(prefer)
    return min(int(found[1]), MAX_WAIT_S) if found else 0


ServiceDep = Annotated[Service, Depends(_service)]
SettingsDep = Annotated[Settings, Depends(_settings)]
ProjectDep = Annotated[str, Depends(_project)]
BodyDigestDep = Annotated[str, Depends(_digest)]
WaitDep = Annotated[int, Depends(_wait)]


async def _idempotency(
    request: Request,
    body_sha256: BodyDigestDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="The same key and body get the first answer again.",
        ),
    ] = None,
) -> Idempotency | None:
    if idempotency_key is None:
        return None
    if not 1 <= len(idempotency_key) <= MAX_KEY_LENGTH or not idempotency_key.isprintable():
        message = f"The header Idempotency-Key must have 1 to {MAX_KEY_LENGTH} characters."
        raise InvalidRequest.of(FieldError("", "out-of-range", message, idempotency_key))
    return Idempotency(request.url.path, idempotency_key, body_sha256)


IdempotencyDep = Annotated[Idempotency | None, Depends(_idempotency)]


async def refuse_unknown_query(request: Request) -> None:
    """A query parameter that a route does not have would be ignored in silence."""
    known = _query_names(request.scope["route"].dependant.query_params)
    errors = [
        unknown_name(f"?{name}", name, known, what="parameter")
        for name in request.query_params
        if name not in known
    ]
    if errors:
        raise invalid(errors)


def _query_names(fields: Any) -> list[str]:
    """The names of query parameters; a model stands for its fields."""
    names: list[str] = []
    for field in fields:
        annotation = field.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            names += [inner.alias or name for name, inner in annotation.model_fields.items()]
        else:
            names.append(field.alias)
    return names


async def look_until(
    request: Request, look: Callable[[], Seen], is_enough: Callable[[Seen], bool], wait_s: float
) -> Seen:
    """Look again and again until it is enough, `wait_s` have passed, or nobody listens any more.

    Between two looks the request holds no thread and no session. It looks when a job has moved
    on, and else more and more rarely: it waits at most a quarter longer than it had to. All that
    wait share two threads, so that they cannot crowd out requests that do not wait.
    """
    started_at, waited_s = anyio.current_time(), 0.0
    with request.app.state.service.bell.listening() as rung:
        seen = await to_thread.run_sync(look)
        while not is_enough(seen) and waited_s < wait_s and not await request.is_disconnected():
            pause_s = min(max(FIRST_PAUSE_S, waited_s / 4), LAST_PAUSE_S, wait_s - waited_s)
            with anyio.move_on_after(pause_s):
                await rung.wait()
            rung.clear()
            seen = await to_thread.run_sync(look, limiter=request.app.state.look_limiter)
            waited_s = anyio.current_time() - started_at
    return seen


def note_wait(response: Response, wait_s: int) -> None:
    """Say that the wait was honoured, whether or not its whole length was needed."""
    if wait_s:
        response.headers["Preference-Applied"] = f"wait={wait_s}"


def check_room(settings: Settings) -> None:
    """Refuse files before the disk is full.

    Raises:
        StorageFull: less space is free than the watermark.
    """
    free = shutil.disk_usage(settings.state).free
    if free < settings.limit_free_disk_bytes:
        raise StorageFull(
            f"{free:,} bytes are free on the disk of the service, files are refused below "
            f"{settings.limit_free_disk_bytes:,}; free some space"
        )
