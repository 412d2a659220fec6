"""Hostile bodies, and the one shape of every refusal."""

import json
from typing import Any

from httpx2 import Response

from dropt.errors import DroptError, NotJson, UnsafeJson

BODY: dict[str, Any] = {"model": "mlp", "dataset": "digits"}
SMALL: dict[str, Any] = BODY | {
    "training": {"epochs": 3}, "budget": {"trials": 4}, "evidence": {"effort": "quick"}
}  # fmt: skip

HOSTILE: list[tuple[str, bytes, type[DroptError]]] = [
    ("NaN", b'{"a": NaN}', UnsafeJson),
    ("Infinity", b'{"a": Infinity}', UnsafeJson),
    ("minus Infinity", b'{"a": [-Infinity]}', UnsafeJson),
    ("float beyond float64", b'{"a": 1e400}', UnsafeJson),
    ("2^63", b'{"a": 9223372036854775808}', UnsafeJson),
    ("below -2^63", b'{"a": -9223372036854775809}', UnsafeJson),
    ("5,000 digits", b'{"a": ' + b"9" * 5000 + b"}", UnsafeJson),
    ("NUL in a text", b'{"a": "x\\u0000y"}', UnsafeJson),
    ("NUL in a key", b'{"a\\u0000": 1}', UnsafeJson),
    ("lone surrogate", b'{"a": "\\ud800"}', UnsafeJson),
    ("lone surrogate in a key", b'{"\\udfff": 1}', UnsafeJson),
    ("duplicate key", b'{"a": 1, "a": 2}', UnsafeJson),
    ("duplicate key written differently", b'{"a": 1, "\\u0061": 2}', UnsafeJson),
    ("depth 33", b"[" * 33 + b"]" * 33, UnsafeJson),
    ("depth 900", b'{"a":' * 900 + b"1" + b"}" * 900, UnsafeJson),
    ("depth 100,000", b"[" * 100_000 + b"]" * 100_000, UnsafeJson),
    ("50,001 values", json.dumps([0] * 50_000).encode(), UnsafeJson),
    ("no JSON", b"model=mlp", NotJson),
    ("cut off", b'{"model": "mlp"', NotJson),
    ("two values", b"{} {}", NotJson),
    ("not UTF-8", b'{"a": "\xff\xfe"}', NotJson),
    ("UTF-16", '{"a": 1}'.encode("utf-16"), NotJson),
    ("empty", b"", NotJson),
    ("raw control character", b'{"a": "\x01"}', NotJson),
]
MEMBERS = {"type", "title", "status", "detail", "instance", "request_id"}


def assert_problem(response: Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem.keys() >= MEMBERS
    assert (problem["type"], problem["status"]) == (f"/problems/{code}", status)
    assert problem["request_id"] == response.headers["X-Request-Id"]
    return problem
