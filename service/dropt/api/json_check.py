"""JSON that every reader reads the same way: checked before anything else sees it."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from dropt.errors import NotJson, UnsafeJson

INT64 = range(-(2**63), 2**63)
MAX_DIGITS = 20  # of an int64 with its sign
_UNSAFE_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class JsonLimits:
    """How deep a body may nest and how many values it may hold."""

    depth: int
    nodes: int


def check_json(body: bytes, limits: JsonLimits) -> object:
    """The value of a JSON text.

    Raises:
        NotJson: it is not JSON in UTF-8.
        UnsafeJson: a duplicate key, NaN or Infinity, NUL or a lone surrogate in a text, an
            integer beyond int64, a float beyond float64, or more depth or values than allowed.
    """
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_int
        )
    except UnicodeDecodeError as error:
        raise NotJson(f"The body is not UTF-8, from byte {error.start} on") from error
    except json.JSONDecodeError as error:
        raise NotJson(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise _too_deep(limits) from error
    _walk(value, limits)
    return value


def _walk(value: object, limits: JsonLimits) -> None:
    stack, n_nodes = [(value, 1)], 0
    while stack:
        node, depth = stack.pop()
        n_nodes += 1
        if depth > limits.depth:
            raise _too_deep(limits)
        if n_nodes > limits.nodes:
            raise UnsafeJson(f"The body holds more than {limits.nodes} values; send it in parts")
        if isinstance(node, dict):
            for key in node:
                _check_text(key)
            stack.extend((child, depth + 1) for child in node.values())
        elif isinstance(node, list):
            stack.extend((child, depth + 1) for child in node)
        else:
            _check_scalar(node)


def _check_scalar(node: object) -> None:
    if isinstance(node, str):
        _check_text(node)
    elif isinstance(node, float) and not math.isfinite(node):
        raise UnsafeJson("A number is too large for a 64-bit float")


def _check_text(text: str) -> None:
    if _UNSAFE_TEXT.search(text):
        raise UnsafeJson("A text holds NUL or a lone surrogate")


def _int(digits: str) -> int:
    # Longer than any int64: Python refuses 4,300 digits with a ValueError of its own.
    if len(digits) > MAX_DIGITS or int(digits) not in INT64:
        raise UnsafeJson("An integer is beyond 64 bits")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise UnsafeJson("An object names the same key twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise UnsafeJson(f"{name} is not JSON; leave the field out or send null")


def _too_deep(limits: JsonLimits) -> UnsafeJson:
    return UnsafeJson(f"The body nests deeper than {limits.depth} levels")
