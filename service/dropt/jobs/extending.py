"""More of a job: trials, time, or a new verdict from new seeds; and a failed one once more.

A new verdict never pools with the one before: it has its own seeds and its own level. The earlier
evidence is set aside, and the earlier verdict stays readable until the new one is told.
"""

from functools import partial

from dropt.errors import BadState, FieldError, InvalidRequest
from dropt.jobs.quotas import admit_trials
from dropt.jobs.reading import job_read
from dropt.jobs.replaying import once
from dropt.spec.changes import Extension
from dropt.spec.ids import JobId
from dropt.spec.job import MAX_TRIALS, Budget
from dropt.spec.results import JobRead, JobState, Phase, TrialPhase
from dropt.storage import arms, events, jobs, trials
from dropt.storage.clock import now
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.tuning.issuing import SEARCHED
from dropt.tuning.service import Idempotency, Service

EXTENDABLE: tuple[JobState, ...] = ("queued", "running", "paused", "succeeded")
EVIDENCE: tuple[TrialPhase, ...] = ("shortlist", "simplify", "compare", "ablate")
AGAIN: tuple[TrialPhase, ...] = ("compare", "ablate")


def extend(
    service: Service,
    job_id: str,
    more: Extension,
    *,
    project: str,
    key: Idempotency | None = None,
) -> tuple[JobRead, bool]:
    """Add to the budget of a job, also after its end. The flag says that this is a replay.

    Raises:
        BadState: it ends, was cancelled, or has failed for good.
        QuotaExceeded: the jobs of the project would have too many trials.
        InvalidRequest: more trials than an arm may have, time for a job without a limit, or new
            evidence where there was none.
        NotFound: no such job.
    """
    with service.database.writing() as session:
        work = partial(_extend, session, service, job_id, more, project=project)
        answer, is_replay = once(session, key, work, project=project)
    service.forget(JobId(job_id))
    service.wake.set()
    return answer, is_replay


def is_retryable(job: JobRow) -> bool:
    """Whether a job has failed in a way that going on can help."""
    return job.state == "failed" and job.failure is not None and job.failure.retryable


def retry(session: Session, job: JobRow) -> None:
    """Let a failed job search on, and as many trials fail again as were allowed."""
    n_failed = trials.count_failed(session, job.id, project=job.project)
    allowed = min(n_failed + job.spec.budget.max_failed_trials, MAX_TRIALS)
    budget = job.spec.budget.model_copy(update={"max_failed_trials": allowed})
    _search_again(session, job, budget, n_more=0, least=budget.trials)


def _extend(
    session: Session, service: Service, job_id: str, more: Extension, *, project: str
) -> JobRead:
    job = jobs.lock(session, job_id, project=project)
    if job.state not in EXTENDABLE and not is_retryable(job):
        raise BadState(
            f"Job {job.id} is {job.state} and cannot be extended; clone it instead",
            members={"state": job.state, "allowed": ["clone"]},
        )
    n_searched = sum(arm in SEARCHED for arm in job.spec.compare.arms)
    admit_trials(session, service.quotas, (more.trials or 0) * n_searched, project=project)
    events.record(
        session, job.id, "job.extended", project=project, **more.model_dump(exclude_none=True)
    )
    if more.evidence is not None:
        _compare_again(session, job)
    else:
        _add(session, job, more)
    return job_read(session, jobs.get(session, job.id, project=project))


def _add(session: Session, job: JobRow, more: Extension) -> None:
    budget, n_more = _more_budget(job, more), more.trials or 0
    least = 0 if more.seconds is None else budget.trials  # that lack of time had cut short
    if is_retryable(job):
        n_failed = trials.count_failed(session, job.id, project=job.project)
        allowed = min(n_failed + budget.max_failed_trials, MAX_TRIALS)
        budget = budget.model_copy(update={"max_failed_trials": allowed})
    if job.is_done or job.phase == "evidence":
        _search_again(session, job, budget, n_more=n_more, least=least)
        return
    spec = job.spec.model_copy(update={"budget": budget})
    jobs.update(session, job.id, project=job.project, spec=spec)
    _raise_targets(session, job, n_more=n_more, least=least)


def _more_budget(job: JobRow, more: Extension) -> Budget:
    budget = job.spec.budget
    n_trials = budget.trials + (more.trials or 0)
    if n_trials > MAX_TRIALS:
        message = f"The job would have {n_trials:,} trials for each arm; {MAX_TRIALS:,} are most."
        raise InvalidRequest.of(FieldError("/trials", "out-of-range", message, f"{more.trials}"))
    if more.seconds is None:
        return budget.model_copy(update={"trials": n_trials})
    if budget.seconds is None:
        message = "The job has no limit of seconds to add to; add trials."
        raise InvalidRequest.of(
            FieldError("/seconds", "out-of-range", message, f"{more.seconds:g}")
        )
    seconds = budget.seconds + more.seconds
    return budget.model_copy(update={"trials": n_trials, "seconds": seconds})


def _raise_targets(session: Session, job: JobRow, *, n_more: int, least: int) -> None:
    """New budgets of the arms: so many trials more, and `least` in all."""
    for row in arms.list_of(session, job.id, project=job.project):
        target = max(row.target + n_more, least) if row.searched else 0
        arms.reopen(session, job.id, row.arm, target, project=job.project)


def _search_again(
    session: Session, job: JobRow, budget: Budget, *, n_more: int, least: int
) -> None:
    """Back to the search; the evidence so far is set aside."""
    _set_aside(session, job, EVIDENCE)
    _raise_targets(session, job, n_more=n_more, least=least)
    phase: Phase = "preparing" if job.space is None else "search"
    _reopen(
        session, job, phase, spec=job.spec.model_copy(update={"budget": budget}),
        search_ended_at=None,
    )  # fmt: skip


def _compare_again(session: Session, job: JobRow) -> None:
    """The same configurations on new seeds."""
    rows = arms.list_of(session, job.id, project=job.project)
    if job.state != "succeeded" or all(row.winner is None for row in rows):
        message = "There is no finished comparison to repeat; extend by trials or seconds."
        raise InvalidRequest.of(FieldError("/evidence", "out-of-range", message, "again"))
    _set_aside(session, job, AGAIN)
    _reopen(session, job, "evidence")


def _set_aside(session: Session, job: JobRow, phases: tuple[TrialPhase, ...]) -> None:
    for phase in phases:
        for row in trials.cancel_open(session, job.id, project=job.project, phase=phase):
            events.record(
                session, job.id, "trial.cancelled", project=job.project, trial=row.id,
                attempt=row.attempt, reason="extended",
            )  # fmt: skip
    trials.supersede(session, job.id, phases, project=job.project)


def _reopen(session: Session, job: JobRow, phase: Phase, **values: object) -> None:
    """A next attempt at a verdict; the time since the end counts as a pause."""
    state: JobState = "paused" if job.state == "paused" else "running"
    idle_s = (now(session) - job.finished_at).total_seconds() if job.finished_at else 0.0
    jobs.update(
        session, job.id, project=job.project, state=state, phase=phase, ended_by=None,
        failure=None, reason=None, stop=None, finished_at=None,
        verdict_attempt=job.verdict_attempt + 1, paused_seconds=job.paused_seconds + idle_s,
        **values,
    )  # fmt: skip
    events.record(session, job.id, "job.state", project=job.project, state=state)
    events.record(session, job.id, "job.phase", project=job.project, phase=phase)
