"""How much of the service one project may take."""

from dropt.errors import QuotaExceeded
from dropt.spec.job import JobSpec
from dropt.storage import jobs, projects
from dropt.storage.session import Session
from dropt.tuning.service import Quotas


def admit_job(session: Session, quotas: Quotas, spec: JobSpec, *, project: str) -> None:
    """Pass when the project has room for this job; two that come at once are counted in turn.

    Raises:
        QuotaExceeded: too many of its jobs wait, or its jobs have too many trials to do.
    """
    projects.lock(session, project)
    n_queued = jobs.count(session, project=project, state=["queued"])
    if n_queued >= quotas.queued_jobs:
        raise QuotaExceeded(
            f"{n_queued} jobs of this project wait already, {quotas.queued_jobs} may "
            "(DROPT_LIMIT_QUEUED_JOBS); cancel some, or start workers",
            members={"limit": quotas.queued_jobs},
        )
    admit_trials(session, quotas, n_trials(spec), project=project)


def admit_trials(session: Session, quotas: Quotas, n_new: int, *, project: str) -> None:
    """Pass when the unfinished jobs of the project may have so many trials more.

    Raises:
        QuotaExceeded: they would have too many.
    """
    n_open = sum(map(n_trials, jobs.open_specs(session, project=project)))
    if n_open + n_new > quotas.open_trials:
        raise QuotaExceeded(
            f"The unfinished jobs of this project have {n_open:,} trials, {n_new:,} more are "
            f"over the limit of {quotas.open_trials:,} (DROPT_LIMIT_OPEN_TRIALS); wait for one "
            "to end, or ask for fewer trials",
            members={"limit": quotas.open_trials},
        )


def n_trials(spec: JobSpec) -> int:
    """The trials of the search: `budget.trials` for each arm but `textbook`, which has none."""
    return spec.budget.trials * sum(arm != "textbook" for arm in spec.compare.arms)
