import inspect
import re

import pytest

from dropt import errors
from dropt.errors import DroptError, FieldError, InvalidRequest, LeaseLost, SequenceMismatch

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, DroptError) and kind is not DroptError
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_leaf_is_drawn_in_the_tree_with_its_code(kind: type[DroptError]) -> None:
    tree = (errors.__doc__ or "").splitlines()
    lines = [line for line in tree if re.search(rf"\b{kind.__name__}\b", line)]
    assert lines, kind
    if "not from HTTP" not in lines[0]:
        assert f"{kind.status} {kind.code}" in lines[0]


def test_codes_are_distinct() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)


def test_detail_counts_the_fields() -> None:
    field = FieldError("/a", "out-of-range", "no")
    assert str(InvalidRequest.of(field)) == "1 field needs attention"
    assert InvalidRequest.of(field, field).detail == "2 fields need attention"


def test_errors_carry_their_data() -> None:
    lost = LeaseLost(["trl_1", "trl_2"], lease_held=False)
    assert lost.lost == ("trl_1", "trl_2")
    assert lost.members == {"lost": ["trl_1", "trl_2"], "lease_held": False}
    assert SequenceMismatch(3, 5).members == {"expected": 3}
