"""The sampler of an arm whose groups are screened first.

Its trials have fixed numbers: the opening ones, then those of the screening, then those of a
sampler over the groups that are left. What was concluded is read from the trials, so that a
memory that is built again goes on where the last one was.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dropt.spec.job import Direction, Search
from dropt.spec.space import Dropout, Screening, Space
from dropt.tuning.first_trials import default_params, opening_trials
from dropt.tuning.points import Point, group_rate, is_with_dropout, place
from dropt.tuning.sampling import ArmMemory, Known, Proposal, is_number
from dropt.tuning.screening import Screened, best_scale, conclude, run_rates, start_rates

NOT_SCREENED: Final = range(0)


@dataclass(frozen=True)
class Stages:
    """The numbers of the trials of each part of a screening."""

    screening: Screening
    scales: range
    runs: range

    @classmethod
    def of(cls, space: Space, search: Search, arm: str) -> "Stages | None":
        """Those of an arm; None where nothing is screened."""
        if space.screening is None or not is_with_dropout(arm):
            return None
        first = len(opening_trials(space, search))
        after_scales = first + len(space.screening.scales)
        runs = range(after_scales, first + space.screening.n_trials)
        return cls(space.screening, range(first, after_scales), runs)

    @property
    def all(self) -> range:
        return range(self.scales.start, self.runs.stop)

    def run_of(self, number: int) -> tuple[int, int]:
        """Seed and run of the trial with this number: all runs with one seed come together."""
        return divmod(number - self.runs.start, self.screening.n_runs)

    def seed_index(self, number: int, arm: str) -> str:
        """What the trials name that share a seed: their differences are not of the seed."""
        part = "scale" if number in self.scales else f"screen/{self.run_of(number)[0]}"
        return f"{arm}/{part}"


def screened_numbers(space: Space, search: Search, arm: str) -> range:
    """The numbers of the trials of an arm that screen: they end at a rung and rival none."""
    stages = Stages.of(space, search, arm)
    return NOT_SCREENED if stages is None else stages.all


def screening_rung(rungs: Sequence[int]) -> int | None:
    """The epoch at which screening trials end: the second rung, or the only one.

    None without rungs: they train to their end.
    """
    return rungs[min(1, len(rungs) - 1)] if rungs else None


def concluded(
    space: Space,
    search: Search,
    arm: str,
    known: Mapping[int, Known],
    *,
    rung: int | None,
    direction: Direction,
) -> Screened | None:
    """What the screening of an arm has found; None before its last trial has ended."""
    stages = Stages.of(space, search, arm)
    if stages is None or not _have_ended(stages.all, known):
        return None
    runs = [known[number] for number in stages.runs]
    n_runs = stages.screening.n_runs
    values = [
        _values(runs[first : first + n_runs], rung, direction)
        for first in range(0, len(runs), n_runs)
    ]
    scale = _scale(stages, known, rung, direction)
    return conclude(space, stages.screening, values, scale=scale, direction=direction)


class ScreenedMemory:
    """What is known of the search trials of an arm with a screening; safe in several threads.

    It answers like `ArmMemory`, of which it is one over fewer groups in the end.
    """

    def __init__(
        self,
        space: Space,
        arm: str,
        search: Search,
        *,
        direction: Direction,
        target: int,
        rung: int | None,
        known: Iterable[Known] = (),
    ) -> None:
        """The memory of an arm of a space with a screening; its trials end at `rung`.

        Raises:
            ValueError: nothing is screened in this arm.
        """
        stages = Stages.of(space, search, arm)
        if stages is None:
            raise ValueError(f"nothing is screened in arm {arm}")
        self._stages, self._space, self._arm, self._search = stages, space, arm, search
        self._direction, self._target, self._rung = direction, target, rung
        self._opening = opening_trials(space, search)
        self._known: dict[int, Known] = {}
        self._asked: dict[int, Proposal] = {}
        self._found: Screened | None = None
        self._after: ArmMemory | None = None
        self._lock = threading.Lock()
        self.tell(*sorted(known, key=lambda trial: trial.number))

    @property
    def found(self) -> Screened | None:
        """What the screening has concluded; None before its end."""
        return self._found

    def is_ready(self, number: int) -> bool:
        """Whether the trial with this number can be asked for: not before what it depends on."""
        with self._lock:
            return self._is_ready(number)

    def ask(self, number: int) -> Proposal:
        """The configuration for the trial with this number; it counts as running from now on.

        Raises:
            ValueError: a trial with this number is known from the tables, or it is not ready.
        """
        with self._lock:
            if number in self._known:
                raise ValueError(f"trial {number} of arm {self._arm} was issued before")
            if not self._is_ready(number):
                raise ValueError(f"trial {number} of arm {self._arm} waits for the screening")
            if number not in self._asked:
                self._asked[number] = self._proposal(number)
            return self._asked[number]

    def tell(self, *trials: Known) -> None:
        """Learn of trials, new or changed; the tables win over what was proposed."""
        with self._lock:
            for trial in trials:
                self._known[trial.number] = trial
                self._asked.pop(trial.number, None)
            if self._after is None:
                self._conclude()
            else:
                self._after.tell(*(trial for trial in trials if self._belongs(trial)))

    def _is_ready(self, number: int) -> bool:
        if number in self._stages.runs:
            return _have_ended(self._stages.scales, self._known)
        return number < self._stages.runs.stop or self._after is not None

    def _proposal(self, number: int) -> Proposal:
        if number < len(self._opening):
            return Proposal(number, self._opening[number])
        if self._after is not None and number >= self._stages.runs.stop:
            found = self._after.ask(number)
            return replace(found, point=self._in_all_groups(found.point))
        rates = self._screening_rates(number)
        point = place(self._space, default_params(self._space), rates)
        return Proposal(number, point, self._stages.seed_index(number, self._arm))

    def _screening_rates(self, number: int) -> dict[str, float]:
        stages = self._stages
        if number in stages.scales:
            factor = stages.screening.scales[number - stages.scales.start]
            return start_rates(self._space, factor)
        scale = _scale(stages, self._known, self._rung, self._direction)
        _, run = stages.run_of(number)
        return run_rates(self._space, stages.screening, run, scale)

    def _conclude(self) -> None:
        """Begin to sample once every trial of the screening has ended."""
        found = concluded(
            self._space, self._search, self._arm, self._known, rung=self._rung,
            direction=self._direction,
        )  # fmt: skip
        if found is None:
            return
        self._found = found
        left = self._space.model_copy(update={"groups": found.groups, "screening": None})
        self._after = ArmMemory(
            left,
            self._arm,
            self._search.model_copy(update={"start_from": ()}),  # tried before
            direction=self._direction,
            target=self._target,
            begin=self._stages.runs.stop,
        )
        self._searched_sites = {site for group in found.groups for site in group.sites}
        self._after.tell(
            *(self._known[n] for n in sorted(self._known) if self._belongs(self._known[n]))
        )

    def _belongs(self, trial: Known) -> bool:
        """Whether the sampler learns of a trial: none that screens, or has a dropped group on."""
        is_within = self._searched_sites.issuperset(trial.sites)
        return trial.number not in self._stages.all and is_within

    def _in_all_groups(self, point: Point) -> Point:
        """The same with the rate of every group of the space, also of those that were dropped."""
        return replace(point, rates=all_rates(self._space, point.sites))


def all_rates(space: Space, sites: Mapping[str, Dropout]) -> dict[str, float]:
    """The rate of each group of a space in a placement."""
    return {group.group: group_rate(group, sites) for group in space.groups}


def _have_ended(numbers: range, known: Mapping[int, Known]) -> bool:
    return all(number in known and known[number].is_final for number in numbers)


def _scale(
    stages: Stages, known: Mapping[int, Known], rung: int | None, direction: Direction
) -> float:
    """The scale of the starts; 1 where none was tried."""
    scales = stages.screening.scales
    values = _values([known[number] for number in stages.scales], rung, direction)
    return best_scale(dict(zip(scales, values, strict=True)), direction)


def _values(trials: Sequence[Known], rung: int | None, direction: Direction) -> list[float | None]:
    """Values at the rung; a trial that diverged has the worst of the others, if they have any."""
    values = [t.value if rung is None else t.rungs.get(rung, t.value) for t in trials]
    finite = [v for v, t in zip(values, trials, strict=True) if is_number(v) and not t.diverged]
    worst = (max if direction == "minimize" else min)(finite, default=None)
    return [
        worst if trial.diverged else value if value in finite else None
        for value, trial in zip(values, trials, strict=True)
    ]
