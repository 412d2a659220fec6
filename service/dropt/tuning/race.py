"""The race of a shortlist: few fresh seeds for all configurations, more for those that lead.

What has been trained so far says where the race stands, so that it may be taken up anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropt.tuning.shortlist import Entry, Round, Standing, rank

if TYPE_CHECKING:
    from dropt.spec.job import Direction

Scored = tuple[Entry, Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Race:
    """Where a race stands.

    `missing`: pairs (place, index of the fresh seed) to train before the next decision. `winner`
    is None while there are any, else the place that has won, with its standing.
    """

    missing: tuple[tuple[int, int], ...]
    winner: tuple[int, Standing] | None


def run_race(scored: Sequence[Scored], rounds: Sequence[Round], direction: "Direction") -> Race:
    """Replay a race over entries with their values on fresh seeds 0, 1, ..., in this order.

    After each round the best means of all values so far go on (`rank`), those of later rounds
    do not count yet. A race with one configuration left is over. Raises ValueError without
    entries or rounds.
    """
    if not scored or not rounds:
        raise ValueError(f"nothing to race: {len(scored)} entries, {len(rounds)} rounds")
    left, until = list(range(len(scored))), 0
    standings: list[tuple[int, Standing]] = []
    for one in rounds:
        first, until = until, until + one.n_seeds
        missing = tuple(
            (place, index)
            for place in left
            for index in range(max(first, len(scored[place][1])), until)
        )
        if missing:
            return Race(missing, None)
        standings = _ranked(scored, left, until, direction)[: one.n_kept]
        left = [place for place, _ in standings]
        if len(left) == 1:
            break
    return Race((), standings[0])


def _ranked(
    scored: Sequence[Scored], left: Sequence[int], until: int, direction: "Direction"
) -> list[tuple[int, Standing]]:
    """The places that are left with their standings after so many fresh seeds, best first."""
    standings = rank([(scored[place][0], scored[place][1][:until]) for place in left], direction)
    places = {id(scored[place][0]): place for place in left}
    return [(places[id(standing.entry)], standing) for standing in standings]
