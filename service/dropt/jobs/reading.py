"""Jobs, arms, trials and events as the API shows them."""

from collections.abc import Collection, Mapping

from dropt.spec.results import (
    FINAL_TRIAL_STATES,
    ArmProgress,
    ArmRead,
    Consumed,
    EvidenceProgress,
    JobRead,
    JobSummary,
    Progress,
    TrialPhase,
    TrialRead,
    TrialState,
)
from dropt.storage import arms, measurements, trials
from dropt.storage.arms import ArmRow
from dropt.storage.jobs import JobRow
from dropt.storage.measurements import Consumption
from dropt.storage.session import Session
from dropt.storage.trials import TrialRow
from dropt.tuning.gathering import plan_of
from dropt.tuning.winners import most_before_comparison

SHARES = {
    "search": 0.6,
    "shortlist": 0.1,
    "simplify": 0.1,
    "compare": 0.2,
}  # of the bar: order, not time

Counts = Mapping[tuple[str, TrialPhase, TrialState], int]


def job_read(session: Session, job: JobRow) -> JobRead:
    """A job with how far it is and what it has used."""
    counts = trials.counts(session, job.id, project=job.project)
    of_job = arms.list_of(session, job.id, project=job.project)
    best = best_trials(session, job)
    used = measurements.consumed(session, job.id, project=job.project).values()
    return JobRead(
        id=job.id, revision=job.revision, name=job.name, labels=job.labels,
        priority=job.priority, state=job.state, phase=job.phase, done=job.is_done,
        ended_by=job.ended_by, reason=job.reason, created_at=job.created_at,
        started_at=job.started_at, finished_at=job.finished_at,
        progress=progress(job, of_job, counts, best),
        consumed=consumed(used), verdict=job.verdict_word, warnings=job.warnings,
        failure=job.failure, cloned_from=job.cloned_from, notify=job.notify, spec=job.spec,
        links=links(job.id),
    )  # fmt: skip


def job_summary(session: Session, job: JobRow) -> JobSummary:
    """A job in a list."""
    counts = trials.counts(session, job.id, project=job.project)
    of_job = arms.list_of(session, job.id, project=job.project)
    verdict = job.verdict
    return JobSummary(
        id=job.id, revision=job.revision, name=job.name, labels=job.labels, state=job.state,
        phase=job.phase, model=job.model, dataset=job.dataset,
        fraction=progress(job, of_job, counts, {}).fraction, verdict=job.verdict_word,
        effect=verdict.effect if verdict else None,
        interval=verdict.interval if verdict else None,
        created_at=job.created_at, finished_at=job.finished_at,
    )  # fmt: skip


def progress(
    job: JobRow, of_job: list[ArmRow], counts: Counts, best: Mapping[str, TrialRow]
) -> Progress:
    """How far a job is, by arm and in the evidence."""
    searched = [row for row in of_job if row.searched]
    by_arm = tuple(_arm_progress(row, counts, best.get(row.arm)) for row in searched)
    n_arms = max(1, sum(row.winner is not None for row in of_job))
    is_chosen = any(row.winner is not None for row in of_job)
    most_raced, most_tried = most_before_comparison(job)
    evidence = EvidenceProgress(
        shortlist_done=n_done(counts, "shortlist"),
        shortlist_target=n_all(counts, "shortlist") if is_chosen else most_raced,
        simplify_done=n_done(counts, "simplify"),
        simplify_target=n_all(counts, "simplify") if is_chosen else most_tried,
        seeds_done=n_done(counts, "compare") // n_arms,
        seeds_cap=plan_of(job).cap,
    )
    return Progress(fraction=_fraction(job, by_arm, evidence), arms=by_arm, evidence=evidence)


def arm_read(row: ArmRow, counts: Counts, best: TrialRow | None, device_s: float) -> ArmRead:
    """An arm with its study."""
    states: tuple[TrialState, ...] = ("waiting", "running", *FINAL_TRIAL_STATES)
    return ArmRead(
        arm=row.arm, searched=row.searched, study=row.study, target=row.target,
        trials={state: counts.get((row.arm, "search", state), 0) for state in states},
        best_value=best.value if best else None, best_trial=best.id if best else None,
        device_seconds=round(device_s, 3),
    )  # fmt: skip


def trial_read(row: TrialRow) -> TrialRead:
    """One training."""
    return TrialRead(
        id=row.id, job=row.job_id, arm=row.arm, phase=row.phase, number=row.number,
        state=row.state, attempt=row.attempt, seed=row.seed, params=row.params, sites=row.sites,
        value=row.value, values=row.values, epochs=row.epochs, epoch=row.epoch,
        best_epoch=row.best_epoch, pruned_at=row.epoch if row.state == "pruned" else None,
        reason=row.reason, detail=row.detail, seconds=round(row.seconds, 4),
        worker=row.worker_id, created_at=row.created_at, finished_at=row.finished_at,
    )  # fmt: skip


def best_trials(session: Session, job: JobRow) -> dict[str, TrialRow]:
    """The best completed search trial of each arm that has one."""
    found: dict[str, TrialRow] = {}
    for arm in job.spec.compare.arms:
        best = trials.list_page(
            session, job.id, project=job.project, limit=1, order_by="value",
            descending=job.spec.objective.direction == "maximize", arm=arm, phase="search",
            states=["completed"],
        )  # fmt: skip
        if best:
            found[arm] = best[0]
    return found


def consumed(parts: Collection[Consumption]) -> Consumed:
    """The sum of what trainings have used."""
    return Consumed(
        device_seconds=round(sum(part.device_seconds for part in parts), 3),
        epochs=sum(part.n_epochs for part in parts),
    )


def links(job_id: str) -> dict[str, str]:
    """Where to read on."""
    base = f"/v1/jobs/{job_id}"
    parts = ("verdict", "best", "arms", "trials", "events")
    named = {part: f"{base}/{part}" for part in parts}
    stream = f"{base}/events/stream"
    return {"self": base, **named, "stream": stream, "dashboard": "/dashboard/"}


def n_done(counts: Counts, phase: TrialPhase) -> int:
    """Trials of a phase that have ended."""
    return sum(
        n for (_, of, state), n in counts.items() if of == phase and state in FINAL_TRIAL_STATES
    )


def n_all(counts: Counts, phase: TrialPhase) -> int:
    """Trials of a phase."""
    return sum(n for (_, of, _), n in counts.items() if of == phase)


def _arm_progress(row: ArmRow, counts: Counts, best: TrialRow | None) -> ArmProgress:
    def n(state: TrialState) -> int:
        return counts.get((row.arm, "search", state), 0)

    return ArmProgress(
        arm=row.arm, target=row.target, complete=n("completed"), pruned=n("pruned"),
        running=n("running"), waiting=n("waiting"), failed=n("failed"),
        best_value=best.value if best else None,
    )  # fmt: skip


def _fraction(job: JobRow, by_arm: tuple[ArmProgress, ...], evidence: EvidenceProgress) -> float:
    if job.is_done:
        return 1.0
    target = sum(arm.target for arm in by_arm)
    ended = sum(arm.complete + arm.pruned + arm.failed for arm in by_arm)
    done = SHARES["search"] * (ended / target if target else 0.0)
    parts = (
        ("shortlist", evidence.shortlist_done, evidence.shortlist_target),
        ("simplify", evidence.simplify_done, evidence.simplify_target),
        ("compare", evidence.seeds_done, evidence.seeds_cap),
    )
    done += sum(SHARES[part] * n / target for part, n, target in parts if target)
    if evidence.seeds_done and not evidence.simplify_target:
        done += SHARES["simplify"]  # there was nothing to simplify
    return round(min(done, 1.0), 4)
