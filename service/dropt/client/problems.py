"""From a problem document back to the error that the service raised."""

import json
from collections.abc import Mapping
from typing import Any, Final

from dropt.errors import (
    DroptError,
    FieldError,
    Internal,
    InvalidRequest,
    LeaseLost,
    NotFound,
    SequenceMismatch,
)

STANDARD: Final = ("type", "title", "status", "detail", "instance", "errors")


def problem_error(status: int, content: bytes) -> DroptError:
    """The error of the tree that a problem tells; of an unknown code, one of its class."""
    problem = _object(content)
    code = str(problem.get("type", "")).rpartition("/")[2]
    kind = _known_errors().get(code) or _by_status(status)
    error = kind.__new__(kind)
    DroptError.__init__(
        error,
        str(problem.get("detail") or f"The service answered {status}"),
        errors=[_field(each) for each in problem.get("errors", ())],
        members={k: v for k, v in problem.items() if k not in STANDARD} | {"status": status},
    )
    if isinstance(error, LeaseLost):
        error.lost = tuple(problem.get("lost", ()))
        error.lease_held = bool(problem.get("lease_held", True))
    elif isinstance(error, SequenceMismatch):
        error.expected = int(problem.get("expected", 0))
    return error


def _by_status(status: int) -> type[DroptError]:
    if status == NotFound.status:
        return NotFound
    return InvalidRequest if status < Internal.status else Internal


def _object(content: bytes) -> dict[str, Any]:
    """The members of a JSON object; none of anything else, which a proxy may have sent."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _known_errors() -> dict[str, type[DroptError]]:
    """The leaves of the tree by code."""
    kinds, found = [DroptError], {}
    while kinds:
        kind = kinds.pop()
        found[kind.code] = kind
        kinds.extend(kind.__subclasses__())
    return found


def _field(member: Mapping[str, Any]) -> FieldError:
    return FieldError(
        str(member.get("pointer", "")), str(member.get("code", "")),
        str(member.get("message", "")), member.get("received"),
        tuple(member.get("allowed", ())), member.get("see"),
    )  # fmt: skip
