"""The checker: what may never be in the history of a job, whatever was killed on the way.

It is pure, over the events of a job and its trials, so that unit, crash and end-to-end tests use
it alike, whether they read a database or the API.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from sqlalchemy import select

from dropt.spec.results import FINAL_TRIAL_STATES, EventRead
from dropt.storage import arms, events, trials
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.tables import measurement, trial

ENDS = {f"trial.{state}": state for state in FINAL_TRIAL_STATES}
PHASES = ("preparing", "search", "evidence")
EVERYTHING = 1_000_000


class TrialLike(Protocol):
    """A trial as the database or the API tells it."""

    @property
    def id(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def phase(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def attempt(self) -> int: ...


class Measured(NamedTuple):
    """One accepted measurement."""

    trial: str
    attempt: int
    epoch: int
    at: datetime


class Budget(NamedTuple):
    """What one searched arm may issue, and has issued."""

    target: int
    issued: int


@dataclass(frozen=True)
class Violation:
    """A rule, and the thing that breaks it."""

    rule: str
    what: str


def check(
    events: Sequence[EventRead],
    rows: Sequence[TrialLike],
    *,
    measurements: Sequence[Measured] = (),
    budgets: Mapping[str, Budget] | None = None,
) -> list[Violation]:
    """Every rule that the history breaks: empty for a right one, at any moment of a job.

    `events` in the order of their insertion. Without `measurements` and `budgets` the rules that
    need them are left out.
    """
    of_trial: dict[str, list[EventRead]] = defaultdict(list)
    for event in events:
        if event.trial is not None and event.type != "best.updated":  # says nothing of its life
            of_trial[event.trial].append(event)
    found = [*_of_job(events), *_of_budgets(rows, budgets or {})]
    strangers = of_trial.keys() - {row.id for row in rows}
    found += [Violation("trial-unknown", id) for id in sorted(strangers)]
    by_trial: dict[str, list[Measured]] = defaultdict(list)
    for one in measurements:
        by_trial[one.trial].append(one)
    for row in rows:
        found += _of_claims(row, of_trial[row.id])
        found += _of_ends(row, of_trial[row.id])
        found += _of_epochs(by_trial[row.id])
        found += _of_stale_measurements(of_trial[row.id], by_trial[row.id])
    return found


def check_job(session: Session, job: JobRow) -> list[Violation]:
    """The same over everything that is stored of a job."""
    told = events.list_after(session, job.id, project=job.project, limit=EVERYTHING)
    columns = (measurement.c.trial_id, measurement.c.attempt, measurement.c.epoch)
    measured = session.execute(
        select(*columns, measurement.c.at)
        .join(trial, trial.c.id == measurement.c.trial_id)
        .where(trial.c.job_id == job.id)
        .order_by(measurement.c.at, measurement.c.epoch)
    )
    of_job = arms.list_of(session, job.id, project=job.project)
    return check(
        told,
        trials.list_of(session, job.id, project=job.project, with_superseded=True),
        measurements=[Measured(*row) for row in measured],
        budgets={row.arm: Budget(row.target, row.issued) for row in of_job if row.searched},
    )


def _of_job(events: Sequence[EventRead]) -> Iterator[Violation]:
    """Sequences without a gap, phases in their order, one end and nothing after it."""
    sequences = [event.sequence for event in events]
    if sequences != list(range(1, len(events) + 1)):
        yield Violation("event-sequence", f"{sequences[:5]} ...")
    for number, run in enumerate(_runs(events)):
        yield from _of_run(run, is_first=number == 0)


def _runs(events: Sequence[EventRead]) -> list[list[EventRead]]:
    """The history cut where a job was extended, or taken up again after its end."""
    runs: list[list[EventRead]] = [[]]
    for event in events:
        is_over = bool(runs[-1]) and runs[-1][-1].type == "job.finished"
        is_again = event.type == "job.state" and event.data.get("state") == "running"
        if event.type == "job.extended" or (is_over and is_again):
            runs.append([])
        runs[-1].append(event)
    return runs


def _of_run(events: Sequence[EventRead], *, is_first: bool) -> Iterator[Violation]:
    phases = [str(event.data.get("phase")) for event in events if event.type == "job.phase"]
    start = PHASES.index(phases[0]) if phases and phases[0] in PHASES and not is_first else 0
    if phases != list(PHASES[start : start + len(phases)]):
        yield Violation("job-phases", " ".join(phases))
    finished = [index for index, event in enumerate(events) if event.type == "job.finished"]
    if len(finished) > 1:
        yield Violation("one-job-end", f"{len(finished)} ends")
    if finished and finished[0] != len(events) - 1:
        yield Violation("nothing-after-job-end", events[finished[0] + 1].type)


def _of_budgets(rows: Sequence[TrialLike], budgets: Mapping[str, Budget]) -> Iterator[Violation]:
    """The search trials of an arm are numbered from 0 without a gap: as many as were issued."""
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        numbers[row.arm, row.phase].append(row.number)
    for (arm, phase), mine in sorted(numbers.items()):
        if sorted(mine) != list(range(len(mine))):
            yield Violation("numbers", f"{arm} {phase}: {sorted(mine)}")
    for arm, budget in sorted(budgets.items()):
        n_searched = len(numbers[arm, "search"])
        if not n_searched == budget.issued <= budget.target:
            yield Violation("budget", f"{arm}: {n_searched} trials, {budget}")


def _of_claims(row: TrialLike, events: Sequence[EventRead]) -> Iterator[Violation]:
    """Each claim raises the attempt by one; the row has the attempt of the last."""
    attempts = [event.attempt for event in events if event.type == "trial.started"]
    if attempts != list(range(1, len(attempts) + 1)):
        yield Violation("attempts-rise", f"{row.id}: {attempts}")
    if row.attempt != len(attempts):
        yield Violation("attempt-of-row", f"{row.id}: {row.attempt}, claimed {len(attempts)} x")


def _of_ends(row: TrialLike, events: Sequence[EventRead]) -> Iterator[Violation]:
    """One end, the one that the row tells, under the highest attempt, and nothing after it."""
    highest, ends = 0, []
    for index, event in enumerate(events):
        if event.type == "trial.started":
            highest = max(highest, event.attempt or 0)
        elif event.attempt is not None and event.attempt != highest:
            yield Violation("stale-end", f"{row.id}: {event.type} under {event.attempt}")
        if event.type in ENDS and not event.data.get("retry"):
            ends.append(index)
    told = [ENDS[events[index].type] for index in ends]
    wanted = [row.state] if row.state in FINAL_TRIAL_STATES else []
    if told != wanted:
        yield Violation("one-end", f"{row.id}: is {row.state}, ends {told}")
    if ends and ends[0] != len(events) - 1:
        yield Violation("nothing-after-end", f"{row.id}: {events[ends[0] + 1].type}")


def _of_epochs(measured: Sequence[Measured]) -> Iterator[Violation]:
    """An attempt measures the epochs from 1 on, without a gap or a repetition."""
    epochs: dict[tuple[str, int], list[int]] = defaultdict(list)
    for one in measured:
        epochs[one.trial, one.attempt].append(one.epoch)
    for (id, attempt), of_attempt in epochs.items():
        if sorted(of_attempt) != list(range(1, len(of_attempt) + 1)):
            yield Violation("epochs", f"{id} attempt {attempt}: {of_attempt}")


def _of_stale_measurements(
    events: Sequence[EventRead], measured: Sequence[Measured]
) -> Iterator[Violation]:
    """A measurement was stored before the next attempt began; both times are the database's."""
    began = {event.attempt: event.at for event in events if event.type == "trial.started"}
    for one in measured:
        following = [at for attempt, at in began.items() if (attempt or 0) > one.attempt]
        if one.attempt not in began or any(at < one.at for at in following):
            yield Violation("stale-measurement", f"{one.trial}: {one.epoch} under {one.attempt}")
