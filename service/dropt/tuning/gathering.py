"""The evidence phase: a shortlist on fresh validation seeds, then paired seeds on the test split.

What has been done is read from the trials themselves, so that a restart goes on where it was.
"""

import logging
from collections.abc import Mapping, Sequence
from statistics import fmean

from pydantic import BaseModel

from dropt.errors import InvalidRequest
from dropt.spec.ids import TrialId
from dropt.spec.results import TrialPhase
from dropt.spec.space import Range
from dropt.storage import arms, artifacts, events, jobs, measurements, trials, verdicts
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.trials import NewTrial, TrialRow
from dropt.tuning.budget import is_time_left
from dropt.tuning.cautions import search_cautions
from dropt.tuning.comparison import BASELINE, PRIMARY, Evidence, Training, look_at
from dropt.tuning.configurations import (
    candidate_of,
    params_of,
    rates_by_group,
    sites_of,
    textbook_rates,
)
from dropt.tuning.ending import fail, finish
from dropt.tuning.looks import LookPlan, plan_looks
from dropt.tuning.score_files import ScoreFile, constant_scores, read_scores
from dropt.tuning.scores import default_min_effect
from dropt.tuning.seeds import trial_seed
from dropt.tuning.service import Service
from dropt.tuning.shortlist import (
    ARMS,
    FLAT,
    ArmName,
    Configuration,
    Entry,
    draw_up,
    rank,
)

logger = logging.getLogger(__name__)

OPEN = ("waiting", "running")
SCORES = "scores:test"


class Winner(BaseModel):
    """The configuration of an arm that meets the test split, as `arm.winner` stores it."""

    trial: str
    params: dict[str, float]
    rates: dict[str, float]  # by site
    value: float

    @property
    def configuration(self) -> Configuration:
        return Configuration(self.params, self.rates)


def gather(service: Service, job: JobRow) -> None:
    """Take the evidence one step forward."""
    with service.database.reading() as session:
        rows = trials.list_of(session, job.id, project=job.project)
        winners = {
            row.arm: Winner.model_validate(row.winner)
            for row in arms.list_of(session, job.id, project=job.project)
            if row.winner is not None
        }
    shortlisted = [row for row in rows if row.phase == "shortlist"]
    compared = [row for row in rows if row.phase == "compare"]
    broken = next((row for row in (*shortlisted, *compared) if _is_broken(row)), None)
    if broken is not None:
        fail(
            service, job, broken.reason or "error",
            f"A training of the evidence failed for good: {broken.detail or broken.reason}",
        )  # fmt: skip
    elif not shortlisted:
        _begin_shortlist(service, job, rows)
    elif any(row.state in OPEN for row in (*shortlisted, *compared)):
        return
    elif not winners:
        _end_shortlist(service, job, rows, shortlisted)
    else:
        _look(service, job, rows, compared)


def device_seconds(session: Session, job: JobRow) -> dict[str, float]:
    """What the trials of a job have used so far, by phase."""
    spent: dict[str, float] = {}
    for (_, phase), used in measurements.consumed(session, job.id, project=job.project).items():
        spent[phase] = spent.get(phase, 0.0) + used.device_seconds
    return {phase: round(seconds, 3) for phase, seconds in sorted(spent.items())}


def plan_of(job: JobRow) -> LookPlan:
    """The looks of a job; one without evidence has none."""
    evidence = job.spec.evidence
    return LookPlan((), ()) if evidence is False else plan_looks(evidence.effort)


def _is_broken(row: TrialRow) -> bool:
    """Failed for another reason than diverging, which is a result."""
    return row.state == "failed" and row.reason != "diverged"


def _entries(job: JobRow, rows: Sequence[TrialRow]) -> dict[ArmName, tuple[Entry, ...]]:
    """The shortlist, from the search trials alone: the same whenever it is asked for."""
    assert job.spec.evidence is not False  # else there is no evidence phase
    candidates = {
        arm: [candidate_of(row) for row in rows if row.phase == "search" and row.arm == arm]
        for arm in ARMS
    }
    flat = FLAT[job.spec.evidence.effort]
    return draw_up(candidates, flat, job.spec.objective.direction)


def _begin_shortlist(service: Service, job: JobRow, rows: Sequence[TrialRow]) -> None:
    assert job.spec.evidence is not False
    n_seeds = FLAT[job.spec.evidence.effort].n_seeds
    new = [
        _new_trial(
            job, arm, "shortlist", place * n_seeds + r, r, entry.configuration,
            origin=entry.trial, candidate=place,
        )
        for arm, entries in _entries(job, rows).items()
        for place, entry in enumerate(entries)
        for r in range(n_seeds)
    ]  # fmt: skip
    _insert(service, job, new, of_phase="shortlist", n_before=0)


def _end_shortlist(
    service: Service, job: JobRow, rows: Sequence[TrialRow], shortlisted: Sequence[TrialRow]
) -> None:
    """Pick one configuration per arm, fix the smallest effect of interest, begin to compare."""
    entries = _entries(job, rows)
    winners: dict[str, Winner] = {}
    for arm in ARMS:
        winners[arm] = _winner(job, arm, entries[arm], shortlisted)
    without = winners[BASELINE]
    if "textbook" in job.spec.compare.arms:
        assert job.space is not None  # a job that has searched has one
        winners["textbook"] = without.model_copy(update={"rates": textbook_rates(job.space)})
    metric = job.spec.objective.metric
    min_effect = job.spec.objective.min_effect or default_min_effect(metric, without.value)
    with service.database.writing() as session:
        if not _goes_on(session, job):
            return
        for name, winner in winners.items():
            arms.set_winner(session, job.id, name, winner, project=job.project)
        jobs.update(session, job.id, project=job.project, min_effect=min_effect)
        events.record(
            session, job.id, "evidence.shortlisted", project=job.project,
            winners={arm: winner.trial for arm, winner in winners.items()},
            min_effect=min_effect,
        )  # fmt: skip


def _winner(
    job: JobRow, arm: ArmName, entries: Sequence[Entry], shortlisted: Sequence[TrialRow]
) -> Winner:
    mine = [row for row in shortlisted if row.arm == arm]
    fresh = [
        [row.value for row in mine if row.candidate == place] for place in range(len(entries))
    ]
    scored = list(zip(entries, fresh, strict=True))
    best = rank(scored, job.spec.objective.direction)[0]
    place = list(entries).index(best.entry)
    values = [value for value in fresh[place] if value is not None]
    return Winner(
        trial=best.entry.trial or next(row.id for row in mine if row.candidate == place),
        params=dict(best.entry.configuration.params),
        rates=dict(best.entry.configuration.rates),
        value=fmean(values or best.entry.values),  # every fresh seed may have diverged
    )


def _look(
    service: Service, job: JobRow, rows: Sequence[TrialRow], compared: Sequence[TrialRow]
) -> None:
    """Look at the seeds that are there, then train the next ones or end."""
    plan = plan_of(job)
    by_arm: dict[str, list[TrialRow]] = {
        arm: sorted((row for row in compared if row.arm == arm), key=lambda row: row.number)
        for arm in job.spec.compare.arms
    }
    n_seeds = min(len(of_arm) for of_arm in by_arm.values())
    if n_seeds == 0:
        _train_seeds(service, job, 0, plan.looks[0])
        return
    try:
        evidence = _evidence(service, job, rows, by_arm, plan)
        look, verdict = look_at(evidence)
    except (InvalidRequest, ValueError, FileNotFoundError) as error:
        fail(service, job, "data", f"The scores of the comparison cannot be used: {error}")
        return
    with service.database.writing() as session:
        if not _goes_on(session, job):
            return
        done = verdicts.list_looks(session, job.id, project=job.project, attempt=1)
        if look.number > len(done):
            verdicts.add_look(
                session, job.id, 1, look.number, verdict.looks[-1].decision, verdict,
                project=job.project,
            )  # fmt: skip
            jobs.update(
                session, job.id, project=job.project, verdict=verdict,
                verdict_word=verdict.verdict, detectable_effect=verdict.detectable_effect,
            )  # fmt: skip
            events.record(
                session, job.id, "verdict.updated", project=job.project, verdict=verdict.verdict,
                provisional=verdict.provisional, seeds=n_seeds,
            )  # fmt: skip
            logger.debug("verdict.stored", extra={"job": job.id, "look": look.number})
    following = plan.next_look(n_seeds)
    if look.decision.go_on and following is not None:
        _train_seeds(service, job, n_seeds, following)
    else:
        finish(service, job, verdict)


def _evidence(
    service: Service,
    job: JobRow,
    rows: Sequence[TrialRow],
    by_arm: Mapping[str, Sequence[TrialRow]],
    plan: LookPlan,
) -> Evidence:
    ended = [row for row in rows if row.phase == "search" and row.state in ("completed", "pruned")]
    with service.database.reading() as session:
        return Evidence(
            job=job,
            trainings=_trainings(service, session, job, by_arm),
            plan=plan,
            searched={arm: sum(row.arm == arm for row in ended) for arm in ARMS},
            search_cautions=_search_cautions(job, ended),
            device_seconds=device_seconds(session, job),
            budget_left=is_time_left(session, job),
        )


def _trainings(
    service: Service, session: Session, job: JobRow, by_arm: Mapping[str, Sequence[TrialRow]]
) -> dict[str, list[Training]]:
    """The trainings with their scores; one that diverged has those of the constant predictor.

    Raises:
        ValueError: one that ended well has no scores, or all have diverged.
    """
    found = {
        row.id: _scores(service, session, row)
        for of_arm in by_arm.values()
        for row in of_arm
        if row.reason != "diverged"
    }
    if not found:
        raise ValueError("every training diverged")
    constant = constant_scores(next(iter(found.values())), job.spec.task)
    return {
        arm: [Training(row, found.get(row.id, constant)) for row in of_arm]
        for arm, of_arm in by_arm.items()
    }


def _scores(service: Service, session: Session, row: TrialRow) -> ScoreFile:
    files = artifacts.of_trial(session, row.id, project=row.project)
    if SCORES not in files:
        raise ValueError(f"trial {row.id} has no scores")
    return read_scores(service.artifacts.path(files[SCORES]))


def _search_cautions(job: JobRow, ended: Sequence[TrialRow]) -> tuple[str, ...]:
    assert job.space is not None  # a job that has searched has one
    n_ranges = sum(isinstance(of, Range) for of in job.space.also.values())
    of_with = [row for row in ended if row.arm == PRIMARY]
    completed = [row for row in of_with if row.state == "completed" and row.value is not None]
    sign = -1.0 if job.spec.objective.direction == "maximize" else 1.0
    best = min(completed, key=lambda row: sign * (row.value or 0.0), default=None)
    return search_cautions(
        n_without=sum(row.arm == BASELINE for row in ended),
        n_with=len(of_with),
        n_with_dimensions=len(job.space.groups) + n_ranges,
        best_with=None if best is None else of_with.index(best) + 1,
    )


def _train_seeds(service: Service, job: JobRow, first: int, until: int) -> None:
    """Fresh seeds `first` to `until - 1` for the winner of each arm: paired by their index."""
    with service.database.reading() as session:
        rows = arms.list_of(session, job.id, project=job.project)
    winners = {
        row.arm: Winner.model_validate(row.winner) for row in rows if row.winner is not None
    }
    new = [
        _new_trial(
            job, arm, "compare", r, r, winner.configuration, origin=winner.trial, candidate=None
        )
        for r in range(first, until)
        for arm, winner in winners.items()
    ]
    _insert(service, job, new, of_phase="compare", n_before=first * len(winners))


def _new_trial(
    job: JobRow,
    arm: str,
    phase: TrialPhase,
    number: int,
    index: int,
    configuration: Configuration,
    *,
    origin: str | None,
    candidate: int | None,
) -> NewTrial:
    """A training of the evidence; its seed does not name the arm, which pairs the arms."""
    assert job.space is not None  # a job that has searched has one
    assert phase != "search"  # those are issued against the budget of their arm
    return NewTrial(
        job_id=job.id,
        arm=arm,
        phase=phase,
        number=number,
        seed_index=str(index),
        seed=trial_seed(job.spec.search.seed, phase, index),
        epochs=job.spec.training.epochs,
        params=params_of(configuration),
        rates=rates_by_group(job.space, configuration.rates),
        sites=sites_of(configuration, job.space),
        candidate=candidate,
        origin=None if origin is None else TrialId(origin),
    )


def _insert(
    service: Service, job: JobRow, new: Sequence[NewTrial], *, of_phase: TrialPhase, n_before: int
) -> None:
    """Store new trials unless another process has done so meanwhile."""
    with service.database.writing() as session:
        goes_on = _goes_on(session, job)
        counts = trials.counts(session, job.id, project=job.project)
        n_now = sum(n for (_, phase, _), n in counts.items() if phase == of_phase)
        if goes_on and n_now == n_before:
            trials.insert_many(session, new, project=job.project)
            events.record(
                session, job.id, f"evidence.{of_phase}", project=job.project, trials=len(new)
            )


def _goes_on(session: Session, job: JobRow) -> bool:
    """Whether the evidence is still wanted; nothing ends the job until the commit."""
    current = jobs.lock(session, job.id, project=job.project)
    return (current.state, current.phase) == ("running", "evidence")
