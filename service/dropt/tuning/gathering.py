"""The evidence phase: shortlist, simplification and comparison, then the ablation.

What has been done is read from the trials themselves, so that a restart goes on where it was.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from dropt.errors import InvalidRequest
from dropt.spec.results import VerdictRead
from dropt.storage import arms, events, jobs, measurements, trials, verdicts
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.trials import TrialRow
from dropt.tuning.ablating import ablate, end_ablation
from dropt.tuning.budget import is_time_left
from dropt.tuning.comparison import BASELINE, PRIMARY, Evidence, look_at
from dropt.tuning.ending import fail, finish
from dropt.tuning.evidence_trials import fresh_trial, goes_on, insert
from dropt.tuning.looks import LookPlan, plan_looks
from dropt.tuning.scores import default_min_effect
from dropt.tuning.search_cautions import cautions_of
from dropt.tuning.selection import Selection, Wanted, select
from dropt.tuning.service import Service
from dropt.tuning.shortlist import ARMS
from dropt.tuning.trainings import read_trainings
from dropt.tuning.verdict import Look
from dropt.tuning.winners import Winner, entries_of, rules_of, trained_of, winners_of

logger = logging.getLogger(__name__)

OPEN = ("waiting", "running")
DECISIVE = ("shortlist", "simplify", "compare")  # without these there is no verdict


def gather(service: Service, job: JobRow) -> None:
    """Take the evidence one step forward."""
    with service.database.reading() as session:
        rows = trials.list_of(session, job.id, project=job.project)
        winners = {
            row.arm: Winner.model_validate(row.winner)
            for row in arms.list_of(session, job.id, project=job.project)
            if row.winner is not None
        }
        may_simplify = is_time_left(session, job)
    broken = next((row for row in rows if row.phase in DECISIVE and _is_broken(row)), None)
    if broken is not None:
        fail(
            service, job, broken.reason or "error",
            f"A training of the evidence failed for good: {broken.detail or broken.reason}",
        )  # fmt: skip
    elif any(row.state in OPEN for row in rows if row.phase != "search"):
        return
    elif not winners:
        _select(service, job, rows, may_simplify=may_simplify)
    elif any(row.phase == "ablate" for row in rows):
        end_ablation(service, job, rows, winners[PRIMARY])
    else:
        _look(service, job, rows, winners)


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


def _select(
    service: Service, job: JobRow, rows: Sequence[TrialRow], *, may_simplify: bool
) -> None:
    """Train what the choice of one configuration per arm still needs, or make it."""
    found = select(
        entries_of(job, rows), trained_of(rows), rules_of(job), may_simplify=may_simplify
    )
    if found.wanted:
        _train_wanted(service, job, rows, found.wanted)
    else:
        _settle(service, job, rows, found)


def _train_wanted(
    service: Service, job: JobRow, rows: Sequence[TrialRow], wanted: Sequence[Wanted]
) -> None:
    phase = wanted[0].purpose
    stored = Counter(row.arm for row in rows if row.phase == phase)
    numbers, new = Counter(stored), []
    for one in wanted:
        new.append(
            fresh_trial(
                job, one.arm, phase, one.configuration, number=numbers[one.arm],
                index=one.index, origin=one.origin, candidate=one.candidate,
            )
        )  # fmt: skip
        numbers[one.arm] += 1
    insert(service, job, new, of_phase=phase, n_before=stored.total())


def _settle(service: Service, job: JobRow, rows: Sequence[TrialRow], found: Selection) -> None:
    """Store one configuration per arm, and fix the smallest effect of interest."""
    winners = winners_of(job, found.chosen, rows)
    metric = job.spec.objective.metric
    without = winners[BASELINE]
    min_effect = job.spec.objective.min_effect or default_min_effect(metric, without.value)
    removed = [list(removal.sites) for removal in winners[PRIMARY].removals if removal.removed]
    with service.database.writing() as session:
        if not goes_on(session, job):
            return
        for name, winner in winners.items():
            arms.set_winner(session, job.id, name, winner, project=job.project)
        jobs.update(session, job.id, project=job.project, min_effect=min_effect)
        events.record(
            session, job.id, "evidence.shortlisted", project=job.project,
            winners={arm: winner.trial for arm, winner in winners.items()},
            min_effect=min_effect, removed=removed,
        )  # fmt: skip


def _look(
    service: Service, job: JobRow, rows: Sequence[TrialRow], winners: Mapping[str, Winner]
) -> None:
    """Look at the seeds that are there, then train the next ones or end."""
    plan = plan_of(job)
    by_arm = _compared(job, rows)
    n_seeds = min(len(of_arm) for of_arm in by_arm.values())
    if n_seeds == 0:
        _train_seeds(service, job, winners, 0, plan.looks[0])
        return
    try:
        evidence = _evidence(service, job, rows, by_arm, plan)
        look, verdict = look_at(evidence)
    except (InvalidRequest, ValueError, FileNotFoundError) as error:
        fail(service, job, "data", f"The scores of the comparison cannot be used: {error}")
        return
    if not _store_look(service, job, look, verdict):
        return
    following = plan.next_look(n_seeds)
    if look.decision.go_on and following is not None:
        _train_seeds(service, job, winners, n_seeds, following)
    elif not ablate(service, job, verdict, winners[PRIMARY], budget_left=evidence.budget_left):
        finish(service, job, verdict)


def _store_look(service: Service, job: JobRow, look: Look, verdict: VerdictRead) -> bool:
    """Store a look once; False when the evidence is not wanted any more."""
    with service.database.writing() as session:
        if not goes_on(session, job):
            return False
        attempt = job.verdict_attempt
        done = verdicts.list_looks(session, job.id, project=job.project, attempt=attempt)
        if look.number > len(done):
            verdicts.add_look(
                session, job.id, attempt, look.number, verdict.looks[-1].decision, verdict,
                project=job.project,
            )  # fmt: skip
            jobs.update(
                session, job.id, project=job.project, verdict=verdict,
                verdict_word=verdict.verdict, detectable_effect=verdict.detectable_effect,
            )  # fmt: skip
            events.record(
                session, job.id, "verdict.updated", project=job.project, verdict=verdict.verdict,
                provisional=verdict.provisional, seeds=verdict.seeds,
            )  # fmt: skip
            logger.debug("verdict.stored", extra={"job": job.id, "look": look.number})
    return True


def _compared(job: JobRow, rows: Sequence[TrialRow]) -> dict[str, list[TrialRow]]:
    """The trainings of the comparison by arm, in the order of their seeds."""
    compared = sorted((row for row in rows if row.phase == "compare"), key=lambda row: row.number)
    return {arm: [row for row in compared if row.arm == arm] for arm in job.spec.compare.arms}


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
            trainings=read_trainings(service, session, job, by_arm),
            plan=plan,
            searched={arm: sum(row.arm == arm for row in ended) for arm in ARMS},
            search_cautions=cautions_of(job, ended),
            device_seconds=device_seconds(session, job),
            budget_left=is_time_left(session, job),
        )


def _train_seeds(
    service: Service, job: JobRow, winners: Mapping[str, Winner], first: int, until: int
) -> None:
    """Fresh seeds `first` to `until - 1` for the winner of each arm: paired by their index."""
    new = [
        fresh_trial(
            job, arm, "compare", winner.configuration, number=r, index=r, origin=winner.trial
        )
        for r in range(first, until)
        for arm, winner in winners.items()
    ]
    insert(service, job, new, of_phase="compare", n_before=first * len(winners))
