"""From an interval to a verdict: the decision table, and one look at the evidence.

One interval serves all claims: an effect on one side of 0, and equivalence by two one-sided tests
at half its level (Schuirmann 1987).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dropt.tuning.cautions import has_skewed_seeds
from dropt.tuning.evidence import (
    FEWEST_EXAMPLES,
    CrossedStatistics,
    Interval,
    crossed_interval,
    p_value,
)
from dropt.tuning.looks import ALPHA, FEWEST_SEEDS, LookPlan, is_futile

if TYPE_CHECKING:
    from dropt.spec.results import VerdictWord

Size = Literal["at_least_min_effect", "may_be_smaller"]
Sign = Literal["better", "worse"]
Reason = Literal[
    "evidence_off",
    "no_test_split",
    "too_few_test_examples",
    "no_finished_trial",
    "too_few_seeds",
    "seed_budget",
    "test_set_too_small",
    "no_variation",
]


@dataclass(frozen=True, slots=True)
class Decision:
    """What is said now.

    `size` comes with `helps`; `sign` with `no_measurable_difference` when 0 is outside the
    interval; `reason` with `undecided` and `not_tested`. `go_on`: more seeds are to be trained,
    and the verdict is provisional.
    """

    verdict: "VerdictWord"
    size: Size | None = None
    sign: Sign | None = None
    reason: Reason | None = None
    go_on: bool = False

    @property
    def provisional(self) -> bool:
        """Whether this may still change."""
        return self.go_on


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw and said: enough to compute it again.

    `number` counts from 1. `interval` is None when scores without variation prove nothing.
    """

    number: int
    statistics: CrossedStatistics
    level: float
    interval: Interval | None
    decision: Decision


def not_tested(
    *, evidence: bool, n_test_examples: int, n_seeds_possible: int, arms_finished: bool
) -> Decision | None:
    """Why the comparison cannot be made, None when it can: the first row of the table.

    `n_test_examples` counts independent units: groups where they are declared, 0 without a test
    split. `arms_finished`: each of the two arms has a finished search trial.
    """
    refusals: tuple[tuple[bool, Reason], ...] = (
        (not evidence, "evidence_off"),
        (n_test_examples == 0, "no_test_split"),
        (n_test_examples < FEWEST_EXAMPLES, "too_few_test_examples"),
        (not arms_finished, "no_finished_trial"),
        (n_seeds_possible < FEWEST_SEEDS, "too_few_seeds"),
    )
    reason = next((reason for holds, reason in refusals if holds), None)
    return None if reason is None else Decision("not_tested", reason=reason)


def decide(
    interval: Interval | None, *, min_effect: float, reason: Reason, may_go_on: bool = False
) -> Decision:
    """The decision table below its first row; the first match decides.

    A bound that equals -min_effect, 0 or min_effect claims nothing, but a lower bound of
    min_effect is `at_least_min_effect`. A bound that is nan claims nothing. `reason` is what an
    `undecided` for good is put down to; without an interval it is `no_variation`.
    """
    if interval is not None:
        claim = _claim(interval, min_effect)
        if claim is not None:
            return claim
    if may_go_on:
        return Decision("undecided", go_on=True)
    return Decision("undecided", reason="no_variation" if interval is None else reason)


def take_look(
    statistics: CrossedStatistics,
    plan: LookPlan,
    *,
    min_effect: float,
    budget_left: bool = True,
) -> Look:
    """One look, at the number of seeds that the statistics have.

    Skewed seeds postpone every early stop. When the budget ends between two looks, the last look
    is taken again with `budget_left` false: its interval then decides. Raises ValueError for a
    number of seeds that the plan does not look at.
    """
    if statistics.n_seeds not in plan.looks:
        raise ValueError(f"the looks are at {plan.looks} seeds, received {statistics.n_seeds}")
    number = plan.looks.index(statistics.n_seeds) + 1
    level = plan.levels[number - 1]
    interval = crossed_interval(statistics, level)
    futile = is_futile(statistics, plan, min_effect=min_effect)
    seeds_left = budget_left and plan.next_look(statistics.n_seeds) is not None
    if seeds_left and has_skewed_seeds(statistics):
        decision = Decision("undecided", go_on=True)
    else:
        decision = decide(
            interval,
            min_effect=min_effect,
            may_go_on=seeds_left and not futile,
            reason="test_set_too_small" if futile else _shortage(statistics),
        )
    return Look(number, statistics, level, interval, decision)


def holm_levels(
    contrasts: Sequence[CrossedStatistics], *, alpha: float = ALPHA
) -> tuple[float, ...]:
    """Level of the interval of each secondary contrast, in the order given (Holm 1979).

    The j-th smallest of k p-values is held against alpha / (k - j + 1); from the first one that
    fails on, all take its level. An interval at these levels excludes 0 exactly where Holm's
    procedure rejects.
    """
    ranked = sorted(range(len(contrasts)), key=lambda j: p_value(contrasts[j]))
    levels = [alpha] * len(contrasts)
    level, rejecting = alpha, True
    for rank, j in enumerate(ranked):
        if rejecting:
            level = alpha / (len(contrasts) - rank)
            rejecting = p_value(contrasts[j]) < level
        levels[j] = level
    return tuple(levels)


def _claim(interval: Interval, min_effect: float) -> Decision | None:
    low, high = interval.low, interval.high
    if -min_effect < low and high < min_effect:
        sign: Sign | None = "better" if low > 0 else "worse" if high < 0 else None
        return Decision("no_measurable_difference", sign=sign)
    if low > 0:
        size: Size = "at_least_min_effect" if low >= min_effect else "may_be_smaller"
        return Decision("helps", size=size)
    if high < 0:
        return Decision("hurts")
    return None


def _shortage(statistics: CrossedStatistics) -> Reason:
    return "seed_budget" if statistics.bottleneck == "seeds" else "test_set_too_small"
