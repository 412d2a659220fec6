import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropt.spec.nearest import did_you_mean, nearest

FIELDS = (
    "model", "dataset", "name", "labels", "priority", "objective", "compare", "search",
    "training", "budget", "evidence", "resources",
)  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("modle", "model"), ("datset", "dataset"), ("dataest", "dataset"), ("DATASET", "dataset"),
        ("lables", "labels"), ("label", "labels"), ("prioriti", "priority"),
        ("objectiv", "objective"), ("comapre", "compare"), ("serach", "search"),
        ("trainning", "training"), ("trianing", "training"), ("bugdet", "budget"),
        ("budgets", "budget"), ("evidance", "evidence"), ("evidnce", "evidence"),
        ("resource", "resources"), ("recources", "resources"), ("nmae", "name"),
        ("data_set", "dataset"),
    ],
)  # fmt: skip
def test_typing_mistake_finds_the_name_that_was_meant(typed: str, meant: str) -> None:
    assert nearest(typed, FIELDS) == meant
    assert did_you_mean(typed, FIELDS) == f" Did you mean '{meant}'?"


@pytest.mark.parametrize("typed", ["", "x", "zzzz", "epochs", "learning_rate", "q" * 200])
def test_name_that_is_far_from_all_finds_none(typed: str) -> None:
    assert nearest(typed, FIELDS) is None
    assert did_you_mean(typed, FIELDS) == ""


def test_without_names_there_is_none() -> None:
    assert nearest("model", []) is None


def test_equally_near_names_are_told_in_order() -> None:
    assert nearest("layer2", ["layer3", "layer1"]) == "layer1"


@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=12), max_size=5))
def test_only_known_names_are_suggested(typed: str, names: list[str]) -> None:
    assert nearest(typed, names) in {None, *names}


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5))
def test_known_name_is_its_own_nearest(names: list[str]) -> None:
    found = nearest(names[0], names)
    assert found is not None
    assert found.lower() == names[0].lower()
