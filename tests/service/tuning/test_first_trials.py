from math import sqrt

import pytest
from tests.service.tuning.spaces import MLP, make_search, make_site, make_space

from dropt.spec.protocol import TrialParams
from dropt.spec.space import Dropout, Space
from dropt.tuning.first_trials import default_params, first_trials, point_of
from dropt.tuning.points import decode, encode

CONV = make_site("conv:out", "conv", kinds=("channel", "element"))


def rates(space: Space, **search: object) -> list[dict[str, float]]:
    points = first_trials(space, make_search(**search), "with", target=100)
    return [point.rates for point in points]


def test_default_settings_are_the_middle_of_their_ranges() -> None:
    space = make_space(also={"l1": {"low": 0, "high": 0.2}, "l2": 0.5})
    assert default_params(space) == TrialParams(
        lr=0.003, weight_decay=float(f"{sqrt(1e-7):.4g}"), l1=0.1, l2=0.5
    )


def test_the_arm_without_dropout_begins_with_the_defaults() -> None:
    space = make_space()
    (point,) = first_trials(space, make_search(), "without", target=64)
    assert (point.params, point.rates, point.sites) == (default_params(space), {}, {})


def test_02_everywhere_then_starts_then_each_group_alone() -> None:
    assert rates(make_space(MLP[1], CONV)) == [
        {"layers.1:out": 0.2, "conv:out": 0.2},
        {"layers.1:out": 0.2, "conv:out": 0.1},
        {"layers.1:out": 0.2, "conv:out": 0.0},
        {"layers.1:out": 0.0, "conv:out": 0.1},
    ]


def test_equal_first_trials_are_queued_once() -> None:
    assert rates(make_space(MLP[1])) == [{"layers.1:out": 0.2}]


def test_02_is_clipped_into_the_range_of_a_group() -> None:
    space = make_space(MLP[1], sites=[{"match": "*", "rate": [0.3, 0.5]}])
    assert rates(space) == [{"layers.1:out": 0.3}]


def test_a_group_that_is_always_on_stays_on_while_others_are_alone() -> None:
    choices = [{"match": "*"}, {"match": ":in", "always_on": True}]
    found = rates(make_space(*MLP[:2], sites=choices))
    assert all(point[":in"] == 0.2 for point in found)


def test_placements_of_the_user_come_first_and_as_they_are() -> None:
    space = make_space()
    search = make_search(start_from=[{":in": 0.17, "layers.3:out": 0.0}])
    first = first_trials(space, search, "with", target=3)
    assert len(first) == 3
    assert first[0].sites == {":in": Dropout(rate=0.17)}
    assert first[0].rates == {":in": 0.17, "layers.1:out": 0.0, "layers.3:out": 0.0}
    assert first[1].rates == dict.fromkeys(first[1].rates, 0.2)


def test_a_placement_beside_the_groups_is_trained_as_given_and_known_by_its_mean() -> None:
    sites = (make_site("a:out"), make_site("b:out"), make_site("c:out", recommended=False))
    space = make_space(*sites, groups="by_role")
    point = point_of(space, TrialParams(lr=0.1), {"a:out": 0.5, "c:out": 0.1})
    assert {site: dropout.rate for site, dropout in point.sites.items()} == {
        "a:out": 0.5, "c:out": 0.1,
    }  # fmt: skip
    assert point.rates == {"hidden": 0.25}


@pytest.mark.parametrize("target", [1, 2, 64])
def test_no_more_than_the_budget_is_queued(target: int) -> None:
    found = first_trials(make_space(), make_search(), "with", target=target)
    assert len(found) == min(target, 4)


def test_first_trials_lie_on_the_grid_of_the_sampler() -> None:
    space = make_space(*MLP, CONV)
    for point in first_trials(space, make_search(), "with", target=100):
        assert decode(space, "with", encode(space, "with", point.params, point.sites)) == point
