"""Whether a trial goes on at a rung, by its rank among the trials that were there."""

import math
from collections.abc import Sequence
from enum import Enum
from statistics import median
from typing import Final, NamedTuple

from dropt.spec.job import Direction, Pruner

MEDIAN_AFTER: Final = 5  # values of others at a rung before the median says anything


class Decision(Enum):
    """What a trial does at a rung, as the table of rungs writes it."""

    GO_ON = "go_on"
    STOP = "stop"


class RungScore(NamedTuple):
    """The value of one trial of the arm at a rung; None where training diverged."""

    number: int
    value: float | None


def rung_epochs(pruner: Pruner, epochs: int) -> tuple[int, ...]:
    """The epochs at which trials are compared: rising, each from 1 to epochs - 1."""
    if pruner.name == "none":
        return ()
    rungs = {max(1, round(share * epochs)) for share in pruner.rungs}
    return tuple(sorted(rung for rung in rungs if rung < epochs))


def bracket_of(number: int, rungs: Sequence[int]) -> int:
    """The Hyperband bracket of a trial: bracket b skips the first b rungs, the last skips all."""
    return number % (len(rungs) + 1)


def judge(
    pruner: Pruner,
    *,
    rung: int,
    rungs: Sequence[int],
    number: int,
    value: float | None,
    rivals: Sequence[RungScore],
    direction: Direction,
) -> Decision:
    """Whether trial `number`, which scored `value` at epoch `rung`, goes on.

    Args:
        pruner: of the job.
        rung: the epoch; one that is not among `rungs` stops nobody.
        rungs: all of `rung_epochs`.
        number: of the trial within its arm.
        value: of the objective; None or NaN is the worst, as it is among the rivals.
        rivals: the scores of the arm at this epoch; one of the trial itself is ignored.
        direction: of the objective.
    """
    if rung not in rungs:
        return Decision.GO_ON
    score = _cost(value, direction)
    others = [_cost(rival.value, direction) for rival in rivals if rival.number != number]
    match pruner.name:
        case "successive_halving":
            return decide_by_halving(others, score, factor=pruner.factor)
        case "hyperband":
            bracket = bracket_of(number, rungs)
            if rungs.index(rung) < bracket:
                return Decision.GO_ON
            peers = [
                _cost(rival.value, direction)
                for rival in rivals
                if rival.number != number and bracket_of(rival.number, rungs) == bracket
            ]
            return decide_by_halving(peers, score, factor=pruner.factor)
        case "median":
            return decide_by_median(others, score)
        case "none":
            return Decision.GO_ON


def decide_by_halving(others: Sequence[float], score: float, *, factor: int) -> Decision:
    """Stop a trial outside the best 1/factor of its rung (Li et al. 2020, algorithm 2).

    Lower is better. The trial counts among the scores of the rung. Ties go on, and so does a
    rung with fewer than `factor` scores. A trial that went on is never stopped later by scores
    that arrive after it: nothing waits for a rung to fill.
    """
    n_kept = (len(others) + 1) // factor
    if n_kept == 0:
        return Decision.GO_ON
    cut = sorted([*others, score])[n_kept - 1]
    return Decision.GO_ON if score <= cut else Decision.STOP


def decide_by_median(others: Sequence[float], score: float) -> Decision:
    """Stop a trial that is worse than the median of the others (Golovin et al. 2017, 3.2.1).

    Lower is better. Ties go on, and so does everyone while fewer than five others were there.
    Deliberately different: the values at the rung are compared, not running averages.
    """
    if len(others) < MEDIAN_AFTER:
        return Decision.GO_ON
    return Decision.GO_ON if score <= median(others) else Decision.STOP


def _cost(value: float | None, direction: Direction) -> float:
    """The value as something to make small; infinite for a training that diverged."""
    if value is None or math.isnan(value):
        return math.inf
    return -value if direction == "maximize" else value
