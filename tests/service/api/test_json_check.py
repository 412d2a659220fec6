import json

import pytest
from tests.service.api.probes import HOSTILE

from dropt.api.json_check import JsonLimits, check_json
from dropt.errors import DroptError

LIMITS = JsonLimits(depth=32, nodes=50_000)


@pytest.mark.parametrize(
    ("body", "error"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_hostile_json_is_refused(body: bytes, error: type[DroptError]) -> None:
    with pytest.raises(error) as caught:
        check_json(body, LIMITS)
    assert type(caught.value) is error
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, "ü", None, True, {"b": {}}]},
        [2**63 - 1, -(2**63)],
        "surrogate pair \U0001f600",
        [0] * 49_999,
        -0.0,
    ],
    ids=str,
)
def test_plain_json_is_returned_as_python_reads_it(value: object) -> None:
    assert check_json(json.dumps(value).encode(), LIMITS) == value


def test_depth_at_the_limit_is_accepted() -> None:
    assert check_json(b"[" * 32 + b"]" * 32, LIMITS)
