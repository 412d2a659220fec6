"""Answers that a client need not fetch twice, and those that are not final."""

import hashlib

from fastapi import Request, Response
from pydantic import BaseModel

RETRY_AFTER_S = 2  # of an answer that is not final


def cached_answer(request: Request, value: BaseModel, *, revision: int) -> Response:
    """The value as JSON with an entity tag, or 304 when the client has it already.

    The tag holds the revision and a digest: progress changes an answer without a new revision.
    """
    content = value.model_dump_json(by_alias=True).encode()
    tag = f'W/"{revision}.{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type="application/json")


def waiting_answer(value: BaseModel, *, is_done: bool, wait_s: int) -> Response:
    """The value as JSON: 200 when it is final, else 202 and when to ask again."""
    headers = {"Preference-Applied": f"wait={wait_s}"} if wait_s else {}
    if not is_done:
        headers["Retry-After"] = f"{RETRY_AFTER_S}"
    content = value.model_dump_json(by_alias=True)
    status = 200 if is_done else 202
    return Response(content, status, headers=headers, media_type="application/json")
