"""The configuration of each arm that meets the test split: chosen from stored trials, stored."""

import math
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel

from dropt.spec.results import RemovalRead
from dropt.spec.space import Dropout
from dropt.storage.jobs import JobRow
from dropt.storage.trials import TrialRow
from dropt.tuning.configurations import candidate_of, textbook_sites
from dropt.tuning.selection import Chosen, Peer, Rules, Trained, peers
from dropt.tuning.shortlist import (
    ARMS,
    PLANS,
    ArmName,
    Configuration,
    Entry,
    Key,
    draw_up,
)
from dropt.tuning.simplification import SEEDS, Removal, n_most_trainings


class Winner(BaseModel):
    """The configuration of an arm, as `arm.winner` stores it.

    `trial` is the search trial that it came from, or the first training of one that came by the
    exchange; `value` is its mean on fresh validation seeds, or of the search when all diverged.
    """

    trial: str
    params: dict[str, float]
    sites: dict[str, Dropout]
    value: float
    removals: tuple[RemovalRead, ...] = ()

    @property
    def configuration(self) -> Configuration:
        return Configuration(self.params, self.sites)


def entries_of(job: JobRow, rows: Iterable[TrialRow]) -> dict[ArmName, tuple[Entry, ...]]:
    """The shortlist, from the search trials alone: the same whenever it is asked for.

    Raises:
        ValueError: an arm has no trial that may enter.
    """
    assert job.spec.evidence is not False  # else there is no shortlist
    searched = [row for row in rows if row.phase == "search"]
    candidates = {arm: [candidate_of(row) for row in searched if row.arm == arm] for arm in ARMS}
    return draw_up(candidates, PLANS[job.spec.evidence.effort], job.spec.objective.direction)


def rules_of(job: JobRow) -> Rules:
    """What the effort and the space of a job ask of the selection."""
    assert job.spec.evidence is not False  # else nothing is selected
    assert job.space is not None  # a job that has searched has one
    effort = job.spec.evidence.effort
    return Rules(
        plan=PLANS[effort],
        simplify_seeds=SEEDS[effort],
        groups=tuple(group.sites for group in job.space.groups),
        direction=job.spec.objective.direction,
        always_on=frozenset(
            site for group in job.space.groups if group.always_on for site in group.sites
        ),
    )


def most_before_comparison(job: JobRow) -> tuple[int, int]:
    """The most trainings that the shortlist and the simplification can need."""
    if job.spec.evidence is False or job.space is None:
        return 0, 0
    rules = rules_of(job)
    n_units = min(len(rules.groups), job.space.max_groups)
    return (
        sum(rules.plan.n_trainings(arm) for arm in ARMS),
        n_most_trainings(n_units, rules.simplify_seeds),
    )


def trained_of(rows: Sequence[TrialRow]) -> Trained:
    """The values of the shortlist and of the simplification, in the order of their seeds."""
    raced = [row for row in rows if row.phase == "shortlist"]
    return Trained(
        raced={arm: _values(row for row in raced if row.arm == arm) for arm in ARMS},
        simplified=_values(row for row in rows if row.phase == "simplify"),
    )


def peers_of(job: JobRow, rows: Sequence[TrialRow], arm: ArmName) -> tuple[Peer, ...]:
    """The configurations of an arm's shortlist that cannot be told apart from its best."""
    trained = trained_of(rows)
    return peers(entries_of(job, rows)[arm], trained.raced[arm], job.spec.objective.direction)


def trial_of(entry: Entry, place: int, rows: Sequence[TrialRow]) -> str:
    """The search trial of an entry, or its first training if it came by the exchange."""
    where = ("shortlist", entry.arm, place)
    return entry.trial or next(
        row.id for row in rows if (row.phase, row.arm, row.candidate) == where
    )


def winners_of(
    job: JobRow, chosen: Mapping[ArmName, Chosen], rows: Sequence[TrialRow]
) -> dict[str, Winner]:
    """What each arm of the comparison trains; `textbook` takes the settings of `without`."""
    winners: dict[str, Winner] = {arm: _winner(chosen[arm], rows) for arm in ARMS}
    if "textbook" in job.spec.compare.arms:
        assert job.space is not None  # a job that has searched has one
        sites = textbook_sites(job.space)
        winners["textbook"] = winners["without"].model_copy(update={"sites": sites})
    return winners


def _winner(chosen: Chosen, rows: Sequence[TrialRow]) -> Winner:
    entry = chosen.entry
    searched = sum(entry.values) / len(entry.values) if entry.values else math.inf
    return Winner(
        trial=trial_of(entry, chosen.place, rows),
        params=dict(chosen.configuration.params),
        sites=dict(chosen.configuration.on),
        value=searched if chosen.value is None else chosen.value,
        removals=tuple(_removal_read(removal) for removal in chosen.removals),
    )


def _removal_read(removal: Removal) -> RemovalRead:
    is_finite = math.isfinite(removal.harm)
    return RemovalRead(
        sites=removal.sites,
        harm=removal.harm if is_finite else None,
        low=removal.low if is_finite else None,
        seeds=removal.n_seeds,
        removed=removal.removed,
    )


def _values(rows: Iterable[TrialRow]) -> dict[Key, list[float | None]]:
    found: dict[Key, list[float | None]] = {}
    for row in sorted(rows, key=lambda row: int(row.seed_index)):
        found.setdefault(candidate_of(row).configuration.key, []).append(row.value)
    return found
