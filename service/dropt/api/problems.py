"""The error tree as `application/problem+json` (RFC 9457), in one shape for every failure."""

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from dropt.api.validation import invalid, invalid_body, invalid_parameter
from dropt.errors import (
    MAX_SHOWN,
    DroptError,
    FieldError,
    Internal,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    NotReady,
    QuotaExceeded,
    RateLimited,
    SlowBody,
    StorageFull,
    TooLarge,
    Unauthorized,
)
from dropt.spec.keys import redacted

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL = 2_000  # characters
RETRY_AFTER_S = 5  # a database that restarts is back in less
request_id: ContextVar[str] = ContextVar("request_id", default="")


def problem_response(error: DroptError, instance: str) -> Response:
    """The answer that tells this error; `instance` is the path of the request."""
    content = json.dumps(problem_of(error, instance), ensure_ascii=False, allow_nan=False)
    return Response(content, error.status, _headers(error), media_type=MEDIA_TYPE)


def problem_of(error: DroptError, instance: str) -> dict[str, object]:
    """The members of a problem; texts are printable and no longer than 200 or 2,000 characters."""
    members: dict[str, object] = {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": printable(error.detail, MAX_DETAIL),
        "instance": printable(instance, MAX_SHOWN),
        "request_id": request_id.get(),
    }
    members.update(error.members)
    if error.errors:
        members["errors"] = [_field(field) for field in error.errors]
    return members


def printable(text: str, limit: int) -> str:
    """The text without keys, control and direction characters escaped, cut at `limit`."""
    text = redacted(text)
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[:limit]
    )
    return shown if len(shown) <= limit and len(text) <= limit else shown[: limit - 1] + "…"


def answer_problems(app: FastAPI) -> None:
    """Let every failure inside the app, also those of the framework, answer as a problem."""
    app.add_exception_handler(DroptError, _on_dropt_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def problems(*errors: type[DroptError]) -> dict[int | str, dict[str, Any]]:
    """What a route documents of its own failures, for OpenAPI."""
    by_status: dict[int | str, list[str]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(f"`{error.code}`: {error.title}.")
    return {status: documented(" ".join(texts)) for status, texts in by_status.items()}


def documented(description: str) -> dict[str, Any]:
    """A response of OpenAPI that is a problem."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


def _field(field: FieldError) -> dict[str, object]:
    members: dict[str, object] = {
        "pointer": printable(field.pointer, MAX_DETAIL),
        "code": field.code,
        "message": printable(field.message, MAX_DETAIL),
    }
    if field.received is not None:
        members["received"] = printable(field.received, MAX_SHOWN)
    if field.allowed:
        members["allowed"] = [printable(value, MAX_SHOWN) for value in field.allowed]
    if field.see is not None:
        members["see"] = field.see
    return members


def _headers(error: DroptError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if isinstance(error, (NotReady, QuotaExceeded, StorageFull)):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(error.members.get("retry_after_seconds", RETRY_AFTER_S))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, (TooLarge, SlowBody)):
        headers["Connection"] = "close"  # the rest of the body is not read
    allow = error.members.get("allow")
    if isinstance(allow, list):
        headers["Allow"] = ", ".join(allow)
    return headers


def _on_dropt_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DroptError)
    return problem_response(error, request.url.path)


def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(_validation_problem(request, error), request.url.path)


def _validation_problem(request: Request, error: RequestValidationError) -> DroptError:
    errors = error.errors()
    in_body = [each for each in errors if each["loc"][0] == "body"]
    if not in_body:
        return _parameter_problem(errors, request)
    if error.body is None:
        return InvalidRequest.of(
            FieldError("", "missing-field", "The body is missing; send a JSON object.")
        )
    field = request.scope["route"].body_field
    below = [{**each, "loc": each["loc"][1:]} for each in in_body]
    return invalid_body(below, field.field_info.annotation, error.body)


def _parameter_problem(errors: Sequence[Mapping[str, Any]], request: Request) -> DroptError:
    """Of query and headers; a path that does not parse names nothing that exists."""
    if any(each["loc"][0] == "path" for each in errors):
        return NotFound(f"There is nothing at {request.url.path}")
    query = request.scope["route"].dependant.query_params
    model = query[0].field_info.annotation if query else None
    return invalid([invalid_parameter(each, model) for each in errors])


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem_response(_translated(request, error), request.url.path)


def _translated(request: Request, error: HTTPException) -> DroptError:
    if isinstance(error.__cause__, DroptError):  # FastAPI hides what reading the body raised
        return error.__cause__
    if error.status_code == NotFound.status:
        return NotFound(f"There is nothing at {request.url.path}; see /openapi.json")
    if error.status_code == MethodNotAllowed.status:
        return _method_problem(request)
    if error.status_code < Internal.status:
        return InvalidRequest(f"{error.detail}")
    return Internal("The service failed; the request id finds it in the log")


def _method_problem(request: Request) -> DroptError:
    """The methods of all routes of this path: Starlette names those of the first one only."""
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= set(route.methods or ())
    allowed = sorted(methods)
    return MethodNotAllowed(
        f"{request.method} is not possible here; allowed: {', '.join(allowed)}",
        members={"allow": allowed},
    )
