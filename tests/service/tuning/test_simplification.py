import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

import pytest
from scipy import stats

from dropt.spec.space import Dropout
from dropt.tuning.shortlist import Configuration, Key
from dropt.tuning.simplification import (
    Simplification,
    Unit,
    n_first_trainings,
    n_most_trainings,
    simplify,
    units_of,
)

N = 8
NOISE = (0.3, -0.1, 0.2, -0.4, 0.1, -0.2, 0.25, -0.15)  # of the removals, one per seed


def placed(**rates: float) -> Configuration:
    return Configuration({"lr": 0.1}, {s: Dropout(rate=rate) for s, rate in rates.items()})


def run(
    start: Configuration,
    loss: Callable[[frozenset[str], int], float | None],
    *,
    groups: Sequence[Unit] = (),
    n_seeds: int = N,
    maximize: bool = False,
    always_on: Sequence[str] = (),
) -> tuple[Simplification, int]:
    """Train what is missing until nothing is; also how many trainings that took."""
    values: dict[Key, list[float | None]] = {}
    n = 0
    while True:
        found = simplify(
            start, values, groups=groups, n_seeds=n_seeds, always_on=always_on,
            direction="maximize" if maximize else "minimize",
        )  # fmt: skip
        if not found.missing:
            return found, n
        for one, seed in found.missing:
            assert seed == len(values.setdefault(one.key, []))
            values[one.key].append(loss(frozenset(one.on), seed))
            n += 1


def additive(noise: float = 0.0, **gain: float) -> Callable[[frozenset[str], int], float]:
    """A loss to which each site contributes its gain, less of it is better."""

    def loss(on: frozenset[str], seed: int) -> float:
        missing = len(gain) - len(on)
        return 1.0 - sum(gain[site] for site in on) + noise * missing * NOISE[seed]

    return loss


def test_site_whose_removal_is_harmless_goes() -> None:
    found, n = run(placed(a=0.2, b=0.3, c=0.1), additive(a=0.5, b=0.0, c=-0.2))
    assert set(found.configuration.on) == {"a"}
    assert [removal.sites for removal in found.removals] == [("c",), ("b",)]
    assert all(removal.removed for removal in found.removals)
    assert found.removals[0].harm == pytest.approx(-0.2)
    assert n == n_most_trainings(3, N) == (1 + 3 + 2) * N


def test_least_harmful_goes_first_and_the_others_are_tried_again() -> None:
    """Either of two sites can go, but not both."""

    def loss(on: frozenset[str], seed: int) -> float:
        return 0.0 if "a" in on or "b" in on else 1.0 if "c" in on else 2.0

    found, _ = run(placed(a=0.2, b=0.3, c=0.1), loss)
    assert [set(removal.sites) for removal in found.removals if removal.removed] == [{"c"}, {"a"}]
    assert set(found.configuration.on) == {"b"}


def test_harmful_removals_stay_and_are_told() -> None:
    start = placed(a=0.2, b=0.3)
    found, n = run(start, additive(a=0.5, b=0.4))
    assert found.configuration == start
    assert n == n_first_trainings(2, N) == 3 * N
    assert [(one.sites, one.removed, one.is_harmful) for one in found.removals] == [
        (("a",), False, True), (("b",), False, True),
    ]  # fmt: skip


def test_bound_is_the_one_sided_paired_t_interval() -> None:
    harm = [0.15 + 0.5 * noise for noise in NOISE]
    low = fmean(harm) - stats.t.ppf(0.95, N - 1) * stdev(harm) / math.sqrt(N)
    found, _ = run(placed(a=0.2, b=0.3), additive(noise=0.5, a=0.15, b=0.9))
    by_site = {removal.sites: removal for removal in found.removals}
    assert by_site[("a",)].low == pytest.approx(low, abs=1e-12)
    assert by_site[("a",)].removed == (low <= 0)


@pytest.mark.parametrize(("gain", "stays"), [(0.05, False), (0.30, True)])
def test_only_a_measurable_harm_keeps_a_site(gain: float, stays: bool) -> None:
    found, _ = run(placed(a=0.2, b=0.3), additive(noise=0.5, a=gain, b=9.0))
    assert ("a" in found.configuration.on) == stays


def test_last_site_is_never_tried() -> None:
    found, n = run(placed(a=0.2), additive(a=-9.0))
    assert (n, found.removals, set(found.configuration.on)) == (0, (), {"a"})


def test_sites_of_a_group_go_together() -> None:
    start = placed(a=0.2, b=0.2, c=0.1)
    groups = [("a", "b"), ("c",)]
    assert units_of(start, groups) == (("a", "b"), ("c",))
    found, n = run(start, additive(a=0.1, b=-0.3, c=0.5), groups=groups)
    assert set(found.configuration.on) == {"c"}
    assert n == 3 * N
    assert found.removals[0].sites == ("a", "b")


def test_site_in_no_group_is_a_unit_of_its_own() -> None:
    assert units_of(placed(a=0.2, x=0.1, b=0.0), [("a", "b")]) == (("a",), ("x",))


def test_site_that_is_always_on_stays() -> None:
    found, _ = run(placed(a=0.2, b=0.2), additive(a=-1.0, b=-1.0), always_on=["a"])
    assert set(found.configuration.on) == {"a"}


def test_larger_is_better_where_the_metric_says_so() -> None:
    found, _ = run(placed(a=0.2, b=0.3), additive(a=0.5, b=-0.4), maximize=True)
    assert set(found.configuration.on) == {"b"}


@pytest.mark.parametrize(
    ("lost", "left"),
    [("ab", "b"), ("b", "a"), ("a", "b")],
    ids=["with both on", "without a", "without b"],
)
def test_diverged_training_is_the_worst_value(lost: str, left: str) -> None:
    """Taking either out helps; what diverges under one seed is left, or not come to."""

    def loss(on: frozenset[str], seed: int) -> float | None:
        return None if on == set(lost) and seed == 3 else additive(a=-0.2, b=-0.2)(on, seed)

    found, _ = run(placed(a=0.2, b=0.3), loss)
    assert set(found.configuration.on) == set(left)
    harms = [removal.harm for removal in found.removals]
    assert harms == ([-math.inf] if lost == "ab" else [pytest.approx(-0.2)])


def test_many_sites_are_tried_six_at_a_time_lowest_rates_first() -> None:
    start = placed(**{f"s{i}": 0.05 * (i + 1) for i in range(9)})
    found = simplify(start, {}, groups=(), n_seeds=2, direction="minimize")
    tried = {one.key for one, _ in found.missing}
    assert len(tried) == 7
    assert start.without(["s5"]).key in tried
    assert start.without(["s6"]).key not in tried


def test_without_seeds_nothing_is_taken_out() -> None:
    start = placed(a=0.2, b=0.3)
    assert run(start, additive(a=-1.0, b=-1.0), n_seeds=0)[0].configuration == start


def test_one_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds"):
        simplify(placed(a=0.2), {}, groups=(), n_seeds=1, direction="minimize")
