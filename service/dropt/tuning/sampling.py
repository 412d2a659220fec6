"""The sampler of one arm: what it knows of the trials, and what it proposes next.

The memory is a copy of our tables in an Optuna study that is never stored: an ask there costs a
twentieth of one on a stored study. Whoever builds it again from the tables gets the same
proposals, because each is drawn with a seed of its own.
"""

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Final, TypeGuard

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from dropt.spec.ids import TrialId
from dropt.spec.job import Direction, Search
from dropt.spec.protocol import TrialParams
from dropt.spec.results import FINAL_TRIAL_STATES
from dropt.spec.results import TrialState as OurState
from dropt.spec.space import Dropout, Range, Space
from dropt.storage.trials import TrialRow
from dropt.tuning.first_trials import first_trials
from dropt.tuning.points import (
    KIND_PREFIX,
    RATE_PREFIX,
    SCHEDULE,
    Codes,
    Point,
    decode,
    encode,
    is_with_dropout,
    n_rates,
)

MAX_ASKS: Final = 10  # proposals without any dropout before one group is switched on


@dataclass(frozen=True)
class Known:
    """What a sampler and a study learn of a search trial."""

    trial: TrialId
    number: int
    state: OurState
    params: TrialParams
    rates: Mapping[str, float]  # by group
    rungs: Mapping[int, float]  # value of the objective by epoch
    value: float | None = None
    diverged: bool = False
    optuna_id: int | None = None  # in the stored study
    sites: Mapping[str, Dropout] = field(default_factory=dict)  # those with a rate above 0

    @classmethod
    def of(cls, row: TrialRow, rungs: Mapping[int, float | None] | None = None) -> "Known":
        """A row with its values at rungs; values that are no number are left out."""
        finite = {epoch: value for epoch, value in (rungs or {}).items() if is_number(value)}
        return cls(
            trial=row.id, number=row.number, state=row.state, params=row.params, rates=row.rates,
            rungs=finite, value=row.value, diverged=row.reason == "diverged",
            optuna_id=row.optuna_id, sites=row.sites,
        )  # fmt: skip

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_TRIAL_STATES


@dataclass(frozen=True)
class Proposal:
    """The configuration of the trial with this number.

    `seed_index` names the seed that it shares with others; None: it has one of its own.
    """

    number: int
    point: Point
    seed_index: str | None = None


class ArmMemory:
    """What is known of the search trials of one arm; safe to use from several threads.

    The first trials of the arm are proposed in their order, then the sampler's. Asking again for
    a number gives the same proposal, so that a transaction that failed may be tried again.
    """

    def __init__(
        self,
        space: Space,
        arm: str,
        search: Search,
        *,
        direction: Direction,
        target: int,
        known: Iterable[Known] = (),
        begin: int = 0,
    ) -> None:
        """A sampler whose first trial has the number `begin`, those known told to it."""
        hand_over_logs()
        self._space, self._arm, self._search = space, arm, search
        self._begin, self._first = begin, first_trials(space, search, arm, target=target)
        self._distributions = _distributions(space, arm)
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(storage=self._storage, direction=direction)
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._held: dict[int, _Held] = {}
        self._lock = threading.Lock()
        self.tell(*sorted(known, key=lambda trial: trial.number))

    def is_ready(self, number: int) -> bool:
        """Whether the trial with this number can be asked for now: it always can."""
        return True

    def ask(self, number: int) -> Proposal:
        """The configuration for the trial with this number; it counts as running from now on.

        Raises:
            ValueError: a trial with this number is known from the tables.
        """
        with self._lock:
            held = self._held.get(number)
            if held is None:
                held = self._hold(number, self._point(number))
            if held.proposal is None:
                raise ValueError(f"trial {number} of arm {self._arm} was issued before")
            return held.proposal

    def tell(self, *trials: Known) -> None:
        """Learn of trials, new or changed; the tables win over what was proposed.

        One that ended stays as it was told first. A trial that diverged counts as worse than
        every pruned one; one that failed otherwise or was cancelled counts for nothing.
        """
        with self._lock:
            for trial in trials:
                held = self._known_as(trial)
                if trial.is_final and held.is_open:
                    self._end(held.optuna_id, trial)
                    held = replace(held, is_open=False)
                self._held[trial.number] = replace(held, proposal=None)

    def _known_as(self, trial: Known) -> "_Held":
        codes = encode(self._space, self._arm, trial.params, trial.sites)
        held = self._held.get(trial.number)
        if held is not None and held.codes == codes:
            return held
        if held is not None and held.is_open:
            self._storage.set_trial_state_values(held.optuna_id, TrialState.FAIL)
        return _Held(self._add(codes), codes, proposal=None)

    def _hold(self, number: int, point: Point) -> "_Held":
        codes = encode(self._space, self._arm, point.params, point.sites)
        held = _Held(self._add(codes), codes, Proposal(number, point))
        self._held[number] = held
        return held

    def _add(self, codes: Codes) -> int:
        trial = create_trial(
            state=TrialState.RUNNING, params=dict(codes), distributions=self._distributions
        )
        return self._storage.create_new_trial(self._study_id, trial)

    def _end(self, optuna_id: int, trial: Known) -> None:
        if trial.state == "completed" and is_number(trial.value):
            self._storage.set_trial_state_values(optuna_id, TrialState.COMPLETE, [trial.value])
        elif trial.state in ("completed", "pruned") or trial.diverged:
            # Optuna ranks pruned trials by their last rung, those without a value behind all.
            for epoch in sorted(trial.rungs)[-1:] if not trial.diverged else ():
                self._storage.set_trial_intermediate_value(optuna_id, epoch, trial.rungs[epoch])
            self._storage.set_trial_state_values(optuna_id, TrialState.PRUNED)
        else:
            self._storage.set_trial_state_values(optuna_id, TrialState.FAIL)

    def _point(self, number: int) -> Point:
        if number - self._begin < len(self._first):
            return self._first[number - self._begin]
        self._study.sampler = self._sampler(number)
        for _ in range(MAX_ASKS):
            codes = self._draw()
            if not is_with_dropout(self._arm) or _is_on(codes):
                break
        else:
            codes = _switched_on(codes)
        return decode(self._space, self._arm, codes)

    def _draw(self) -> dict[str, float | str]:
        """Codes from the sampler; the trial that carries them is told FAIL and forgotten.

        What is held instead has the codes of the rounded configuration, as the tables say it.
        """
        trial = self._study.ask(self._distributions)
        self._study.tell(trial, state=TrialState.FAIL)
        return dict(trial.params)

    def _sampler(self, number: int) -> BaseSampler:
        """TPE is multivariate and lies about running trials by default.

        `group=True` would change nothing but warn: all trials of an arm have the same parameters.
        """
        text = f"{self._search.seed}:{self._arm}:{number}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        if self._search.sampler == "tpe":
            return _ArmSampler(self._distributions, seed=seed)
        return RandomSampler(seed=seed)


class _ArmSampler(TPESampler):
    """TPE that is told the space of its arm; it would look for it in all trials with each ask.

    That was a third of an ask at 500 trials; the proposals are the same.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], *, seed: int) -> None:
        super().__init__(seed=seed)
        self._of_arm = {
            name: one for name, one in sorted(distributions.items()) if not one.single()
        }

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._of_arm)


@dataclass(frozen=True)
class _Held:
    """A trial in memory; the proposal is kept until the tables have the trial."""

    optuna_id: int
    codes: Codes
    proposal: Proposal | None
    is_open: bool = True


def hand_over_logs() -> None:
    """Let Optuna's records go where ours go, from WARNING on; else it writes to stderr itself."""
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether a value is there and finite: it is neither where training diverged."""
    return value is not None and isfinite(value)


def _distributions(space: Space, arm: str) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {
        name: FloatDistribution(of.low, of.high, log=of.log)
        for name, of in space.also.items()
        if isinstance(of, Range)
    }
    if not is_with_dropout(arm):
        return found
    for group in space.groups:
        codes = IntDistribution(-group.zero_codes, n_rates(group) - 1)
        found[RATE_PREFIX + group.group] = codes
        if len(group.kinds) > 1:
            found[KIND_PREFIX + group.group] = CategoricalDistribution(group.kinds)
    if len(space.schedules) > 1:
        found[SCHEDULE] = CategoricalDistribution([one.label for one in space.schedules])
    return found


def _is_on(codes: Codes) -> bool:
    return any(code >= 0 for code in _rate_codes(codes).values())


def _switched_on(codes: Codes) -> dict[str, float | str]:
    """The codes with the group that is nearest to its lowest rate put there."""
    rates = _rate_codes(codes)
    return {**codes, max(rates, key=lambda name: rates[name]): 0}


def _rate_codes(codes: Codes) -> dict[str, float]:
    return {name: float(code) for name, code in codes.items() if name.startswith(RATE_PREFIX)}
