from math import inf

import numpy as np
import pytest
from tests.service.tuning.spaces import make_inspection, make_search, make_site

from dropt.spec.inspection import Site
from dropt.spec.space import Screening, Space
from dropt.tuning.designs import plackett_burman
from dropt.tuning.screening import (
    SCALES,
    Screened,
    best_scale,
    conclude,
    judge_units,
    run_rates,
    start_rates,
)
from dropt.tuning.space import build_space


def stack(n: int) -> list[Site]:
    return [make_site(f"layers.{i}:out", depth=i / n) for i in range(n)]


def space_of(n: int, *, trials: int = 64, **search: object) -> Space:
    fields = {"groups": "by_site", **search}
    return build_space(make_inspection(*stack(n)), make_search(**fields), trials=trials)


def screening_of(space: Space) -> Screening:
    assert space.screening is not None
    return space.screening


def concluded(space: Space, benefits: list[float], *, noise: float = 0.001) -> Screened:
    """The end of a screening whose units lower the loss by these benefits."""
    screening = screening_of(space)
    is_on = plackett_burman(screening.n_runs)[:, : len(benefits)]
    noisy = np.random.default_rng(5).normal(0, noise, (screening.n_seeds, screening.n_runs))
    values = 1.0 - is_on @ np.array(benefits) + noisy
    return conclude(space, screening, values.tolist(), scale=1.0, direction="minimize")


# ---- how it is laid out


@pytest.mark.parametrize(
    ("n_groups", "trials", "n_runs", "n_units"),
    [(7, 64, 12, 7), (11, 64, 12, 11), (12, 64, 16, 12), (15, 64, 16, 15), (16, 64, 16, 15),
     (24, 64, 16, 15), (23, 96, 24, 23), (24, 96, 24, 23), (20, 48, 12, 11)],
)  # fmt: skip
def test_the_smallest_design_that_half_of_the_trials_pay_for_is_used(
    n_groups: int, trials: int, n_runs: int, n_units: int
) -> None:
    space = space_of(n_groups, trials=trials)
    screening = screening_of(space)
    assert (screening.n_runs, len(screening.units)) == (n_runs, n_units)
    assert (screening.n_seeds, screening.scales) == (2, ())
    assert len(space.groups) == n_groups
    assert 2 * screening.n_trials <= trials


def test_six_groups_are_searched_without_a_screening() -> None:
    space = space_of(6)
    assert space.screening is None
    assert len(space.groups) == 6


@pytest.mark.parametrize(
    ("trials", "search"),
    [(47, {}), (64, {"screen": False}), (6, {})],
)
def test_groups_merge_where_nothing_is_screened(trials: int, search: dict[str, object]) -> None:
    space = space_of(20, trials=trials, **search)
    assert space.screening is None
    assert len(space.groups) == 6
    assert sum(len(group.sites) for group in space.groups) == 20


def test_the_user_may_search_more_groups_at_once() -> None:
    space = space_of(10, max_groups=10)
    assert space.screening is None
    assert len(space.groups) == 10


def test_a_hundred_sites_are_scaled_first_and_merged_in_halves_of_units() -> None:
    space = space_of(100)
    screening = screening_of(space)
    assert (screening.n_runs, screening.scales, screening.n_trials) == (12, SCALES, 29)
    assert len(screening.units) == 11
    assert len(space.groups) == 22
    assert {name for unit in screening.units for name in unit} == {g.group for g in space.groups}
    assert screening_of(space_of(100, trials=128)).n_runs == 16
    assert len(screening_of(space_of(100, trials=128)).units) == 12


def test_sites_that_are_always_on_or_fixed_are_no_factors() -> None:
    choices = [
        {"match": "*"}, {"match": "layers.0:out", "rate": 0.3},
        {"match": "layers.1:out", "always_on": True},
    ]  # fmt: skip
    space = space_of(10, sites=choices)
    units = {name for unit in screening_of(space).units for name in unit}
    assert units == {f"layers.{i}:out" for i in range(2, 10)}
    for run in range(12):
        rates = run_rates(space, screening_of(space), run, 1.0)
        assert (rates["layers.0:out"], rates["layers.1:out"] > 0) == (0.3, True)
    found = concluded(space, [-0.1] * 8)
    assert [group.group for group in found.groups][:2] == ["layers.0:out", "layers.1:out"]


# ---- its runs


def test_a_run_has_the_starts_of_the_units_that_are_on_and_no_other() -> None:
    space = space_of(100)
    screening = screening_of(space)
    for run, is_on in enumerate(plackett_burman(12)):
        rates = run_rates(space, screening, run, 0.5)
        for unit, on in zip(screening.units, is_on, strict=True):
            assert {rates[name] for name in unit} == ({0.1} if on else {0.0})


def test_scaled_starts_stay_on_and_within_their_range() -> None:
    choices = [{"match": "*", "rate": [0.1, 0.3]}]
    space = space_of(8, sites=choices)
    assert set(start_rates(space).values()) == {0.2}
    assert set(start_rates(space, 0.25).values()) == {0.1}
    assert set(start_rates(space, 2.0).values()) == {0.3}


def test_the_scale_with_the_best_value_is_used() -> None:
    values = {0.25: 0.9, 0.5: 0.5, 1.0: 0.7, 1.5: None, 2.0: 0.5}
    assert best_scale(values, "minimize") == 0.5  # as good as 2, and nearer to 1
    assert best_scale(values, "maximize") == 0.25
    assert best_scale({0.5: None}, "minimize") == 1.0


# ---- its conclusions


def test_useful_units_stay_and_harmful_ones_go() -> None:
    benefits = [0.1, -0.1, 0.05, -0.02, 0.08, -0.3, 0.2, -0.1]
    found = concluded(space_of(8), benefits)
    assert [unit.decision == "kept" for unit in found.units] == [b > 0 for b in benefits]
    assert {unit.reason for unit in found.units} == {"useful", "harmful"}
    assert [group.group for group in found.groups] == [f"layers.{i}:out" for i in (0, 2, 4, 6)]
    assert [unit.benefit for unit in found.units] == pytest.approx(benefits, abs=0.003)


def test_more_useful_units_than_rates_are_merged() -> None:
    found = concluded(space_of(9), [0.1] * 9)
    assert len(found.groups) == 6
    assert sum(len(group.sites) for group in found.groups) == 9


def test_the_most_useful_unit_of_a_deep_model_is_split_once_by_depth() -> None:
    space = space_of(100)
    found = concluded(space, [-0.1] * 3 + [0.1, 0.3] + [-0.1] * 6)
    unit = screening_of(space).units[4]
    sites = {group.group: group.sites for group in space.groups}
    assert [group.sites for group in found.groups[1:]] == [sites[name] for name in unit]
    assert len(found.groups) == 3


def test_a_value_to_be_raised_is_a_benefit_when_it_rises() -> None:
    space = space_of(7)
    is_on = plackett_burman(12)[:, :7]
    values = [list(map(float, is_on @ np.arange(-3.0, 4.0)))] * 2
    found = conclude(space, screening_of(space), values, scale=1.0, direction="maximize")
    assert [unit.benefit for unit in found.units] == pytest.approx(list(range(-3, 4)))


def test_starts_of_what_is_searched_are_the_scaled_ones() -> None:
    space = space_of(7)
    values = [[1.0] * 12] * 2
    found = conclude(space, screening_of(space), values, scale=2.0, direction="minimize")
    assert {group.start for group in found.groups} == {0.4}


@pytest.mark.parametrize(
    ("benefit", "reason"),
    [(-2.1, "harmful"), (-1.9, "no_effect"), (0.9, "no_effect"), (1.1, "useful")],
)
def test_a_unit_beyond_the_best_is_judged_by_its_standard_error(
    benefit: float, reason: str
) -> None:
    judged = judge_units([("a",), ("b",), ("c",)], [9.0, 8.0, benefit], [1.0] * 3, room=2)
    assert [unit.reason for unit in judged] == ["useful", "useful", reason]
    assert judged[2].decision == ("kept" if reason == "useful" else "dropped")


def test_the_best_stay_unless_they_do_harm_and_one_stays_always() -> None:
    judged = judge_units([("a",), ("b",), ("c",)], [0.5, -1.5, -3.0], [1.0] * 3, room=3)
    assert [unit.reason for unit in judged] == ["among_the_best", "among_the_best", "harmful"]
    judged = judge_units([("a",), ("b",)], [-9.0, -8.0], [1.0] * 2, room=2)
    assert [unit.decision for unit in judged] == ["dropped", "kept"]


def test_without_knowing_the_noise_only_the_best_stay() -> None:
    judged = judge_units([("a",), ("b",), ("c",)], [-1.0, 5.0, 1.0], [inf] * 3, room=2)
    assert [unit.decision for unit in judged] == ["dropped", "kept", "kept"]
