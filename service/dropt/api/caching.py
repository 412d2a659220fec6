"""Answers that a client need not fetch twice."""

import hashlib

from fastapi import Request, Response
from pydantic import BaseModel


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
