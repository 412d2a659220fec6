import math

import numpy as np
import numpy.typing as npt
import pytest

from dropt.tuning.evidence import (
    CrossedStatistics,
    Interval,
    crossed_interval,
    crossed_statistics,
    p_value,
)
from dropt.tuning.looks import PLANS
from dropt.tuning.student import t_critical
from dropt.tuning.verdict import Decision, Reason, decide, holm_levels, not_tested, take_look

Matrix = npt.NDArray[np.float64]
GO_ON = Decision("undecided", go_on=True)
M = 0.5
NAN = math.nan


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.4, 0.4, Decision("no_measurable_difference")),
        (0.1, 0.4, Decision("no_measurable_difference", sign="better")),
        (-0.4, -0.1, Decision("no_measurable_difference", sign="worse")),
        (0.0, 0.4, Decision("no_measurable_difference")),
        (-0.4, 0.0, Decision("no_measurable_difference")),
        (0.0, 0.0, Decision("no_measurable_difference")),
        (0.1, 0.6, Decision("helps", size="may_be_smaller")),
        (0.1, 0.5, Decision("helps", size="may_be_smaller")),
        (0.5, 0.5, Decision("helps", size="at_least_min_effect")),
        (0.5, 0.9, Decision("helps", size="at_least_min_effect")),
        (0.7, 0.9, Decision("helps", size="at_least_min_effect")),
        (-0.9, -0.1, Decision("hurts")),
        (-0.5, -0.1, Decision("hurts")),
        (-0.9, -0.7, Decision("hurts")),
        (-0.5, 0.4, GO_ON),
        (-0.4, 0.5, GO_ON),
        (0.0, 0.6, GO_ON),
        (-0.6, 0.0, GO_ON),
        (-9.0, 9.0, GO_ON),
        (NAN, 0.4, GO_ON),
        (-0.4, NAN, GO_ON),
        (NAN, NAN, GO_ON),
    ],
)
def test_first_matching_row_decides(low: float, high: float, expected: Decision) -> None:
    interval = Interval(low, high, 0.05)
    assert decide(interval, min_effect=M, reason="seed_budget", may_go_on=True) == expected
    final = Decision("undecided", reason="seed_budget") if expected.go_on else expected
    assert decide(interval, min_effect=M, reason="seed_budget") == final


def test_without_an_interval_nothing_is_claimed() -> None:
    assert decide(None, min_effect=M, reason="seed_budget", may_go_on=True) == GO_ON
    final = decide(None, min_effect=M, reason="seed_budget")
    assert final == Decision("undecided", reason="no_variation")


def test_only_what_goes_on_is_provisional() -> None:
    assert GO_ON.provisional
    assert not Decision("undecided", reason="seed_budget").provisional


def refusal(
    *,
    evidence: bool = True,
    n_test_examples: int = 50,
    n_seeds_possible: int = 5,
    arms_finished: bool = True,
) -> Decision | None:
    return not_tested(
        evidence=evidence,
        n_test_examples=n_test_examples,
        n_seeds_possible=n_seeds_possible,
        arms_finished=arms_finished,
    )


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (refusal(evidence=False), "evidence_off"),
        (refusal(n_test_examples=0), "no_test_split"),
        (refusal(n_test_examples=49), "too_few_test_examples"),
        (refusal(arms_finished=False), "no_finished_trial"),
        (refusal(n_seeds_possible=4), "too_few_seeds"),
    ],
)
def test_comparison_that_cannot_be_made_is_not_tested(
    found: Decision | None, reason: Reason
) -> None:
    assert found == Decision("not_tested", reason=reason)


def test_comparison_of_the_fewest_seeds_and_examples_can_be_made() -> None:
    assert refusal() is None


def scores(n_seeds: int, effect: float, *, seed_sd: float = 0.01, n: int = 400) -> Matrix:
    """Differences [R, N] whose seeds are evenly spread and whose examples hardly vary."""
    seeds = effect + seed_sd * np.linspace(-1, 1, n_seeds)[:, None]
    waves = np.sin(np.arange(n) * (1 + np.arange(n_seeds)[:, None]))
    return np.asarray(seeds + 0.01 * waves, dtype=np.float64)


def test_look_holds_what_it_takes_to_compute_it_again() -> None:
    statistics = crossed_statistics(scores(8, 0.02))
    look = take_look(statistics, PLANS[20], min_effect=0.005)
    assert (look.number, look.level, look.statistics) == (2, 0.0102, statistics)
    assert look.interval == crossed_interval(statistics, 0.0102)
    assert look.decision == Decision("helps", size="at_least_min_effect")


@pytest.mark.parametrize("n_seeds", [2, 6, 19, 30])
def test_nothing_is_tested_between_the_looks(n_seeds: int) -> None:
    with pytest.raises(ValueError, match=f"received {n_seeds}"):
        take_look(crossed_statistics(scores(n_seeds, 0.02)), PLANS[20], min_effect=0.005)


@pytest.mark.parametrize(
    ("n_seeds", "budget_left", "expected"),
    [
        (5, True, GO_ON),
        (5, False, Decision("undecided", reason="seed_budget")),
        (8, True, Decision("undecided", reason="seed_budget")),
    ],
)
def test_open_question_goes_on_until_looks_or_budget_end(
    n_seeds: int, budget_left: bool, expected: Decision
) -> None:
    statistics = crossed_statistics(scores(n_seeds, 0.004, seed_sd=0.02))
    look = take_look(statistics, PLANS[8], min_effect=0.005, budget_left=budget_left)
    assert look.decision == expected


def test_noisy_test_set_ends_an_open_question_early() -> None:
    examples = np.random.default_rng(0).standard_normal(400)
    examples -= examples.mean()
    look = take_look(crossed_statistics(scores(5, 0.0) + examples), PLANS[20], min_effect=0.005)
    assert look.decision == Decision("undecided", reason="test_set_too_small")


def test_test_set_is_blamed_at_the_end_when_examples_dominate() -> None:
    examples = np.random.default_rng(0).standard_normal(400)
    examples += 0.09 - examples.mean()
    plan, min_effect = PLANS[5], 0.005
    look = take_look(crossed_statistics(scores(5, 0.0) + examples), plan, min_effect=min_effect)
    assert look.decision == Decision("undecided", reason="test_set_too_small")


def test_skewed_seeds_postpone_a_claim_to_the_last_look() -> None:
    def look_at(n_seeds: int, *, budget_left: bool = True) -> Decision:
        rows = scores(n_seeds, 0.1)
        rows[0] += 0.15
        statistics = crossed_statistics(rows)
        return take_look(statistics, PLANS[8], min_effect=0.005, budget_left=budget_left).decision

    assert look_at(5) == GO_ON
    assert look_at(8) == Decision("helps", size="at_least_min_effect")
    assert look_at(5, budget_left=False).verdict == "helps"


def test_identical_scores_show_no_difference_from_fifty_examples_on() -> None:
    enough = take_look(crossed_statistics(np.zeros((5, 50))), PLANS[20], min_effect=0.005)
    assert enough.decision == Decision("no_measurable_difference")
    few = crossed_statistics(np.zeros((5, 49)))
    assert take_look(few, PLANS[20], min_effect=0.005).decision == GO_ON
    assert take_look(few, PLANS[5], min_effect=0.005).decision == Decision(
        "undecided", reason="no_variation"
    )


@pytest.mark.parametrize(
    ("effect", "verdict", "least", "most"),
    [
        (0.0, "helps", 0.0, 0.022),
        (0.0, "no_measurable_difference", 0.90, 1.0),
        (1.0, "helps", 0.955, 1.0),
        (1.0, "no_measurable_difference", 0.0, 0.03),
        (-1.0, "hurts", 0.955, 1.0),
    ],
)
def test_outcomes_of_the_default_plan(
    effect: float, verdict: str, least: float, most: float
) -> None:
    """Effect and min_effect in standard deviations of a paired difference; min_effect is 1."""
    plan, n_runs = PLANS[20], 40_000
    seeds = effect + np.random.default_rng(3).standard_normal((n_runs, plan.cap))
    waiting, n_said = np.arange(n_runs), 0
    for n_seeds, level in zip(plan.looks, plan.levels, strict=True):
        means = seeds[waiting, :n_seeds].mean(axis=1)
        se = seeds[waiting, :n_seeds].std(axis=1, ddof=1) / math.sqrt(n_seeds)
        half = t_critical(level, n_seeds - 1) * se
        decisions = [
            decide(
                Interval(low, high, level), min_effect=1.0, reason="seed_budget", may_go_on=True
            )
            for low, high in zip((means - half).tolist(), (means + half).tolist(), strict=True)
        ]
        n_said += sum(decision.verdict == verdict for decision in decisions)
        waiting = waiting[[decision.go_on for decision in decisions]]
    assert least <= n_said / n_runs <= most


def contrast(effect: float) -> CrossedStatistics:
    return CrossedStatistics(effect, 1.0, 1.0, 1.0, 8, 100, ())


def test_holm_holds_the_smallest_p_value_against_the_strictest_level() -> None:
    levels = holm_levels([contrast(0.0), contrast(1.0), contrast(0.5)])
    assert levels == pytest.approx((0.05, 0.05 / 3, 0.05 / 2))


def test_holm_keeps_the_level_of_the_first_contrast_that_fails() -> None:
    weak = next(c for c in map(contrast, np.linspace(0.0, 0.2, 2000)) if p_value(c) < 0.04)
    assert 0.025 < p_value(weak) < 0.04
    levels = holm_levels([weak, contrast(0.001)])
    assert levels == pytest.approx((0.025, 0.025))


@pytest.mark.parametrize("seed", range(20))
def test_interval_at_a_holm_level_excludes_zero_exactly_where_holm_rejects(seed: int) -> None:
    generator = np.random.default_rng(seed)
    contrasts = [contrast(effect) for effect in generator.normal(0.0, 0.1, 4)]
    rejected, ranked = set[int](), sorted(range(4), key=lambda j: p_value(contrasts[j]))
    for rank, j in enumerate(ranked):
        if p_value(contrasts[j]) >= 0.05 / (4 - rank):
            break
        rejected.add(j)
    for j, level in enumerate(holm_levels(contrasts)):
        interval = crossed_interval(contrasts[j], level)
        assert interval is not None
        assert (interval.low > 0 or interval.high < 0) == (j in rejected)


def test_single_secondary_contrast_keeps_the_full_level() -> None:
    assert holm_levels([contrast(0.3)]) == (0.05,)
    assert holm_levels([]) == ()
