"""Events that follow from others: who lost what when trials are claimed, and a new best trial."""

from collections.abc import Collection, Sequence

from dropt.spec.ids import TrialId
from dropt.storage import events, leases, trials
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.trials import TrialRow
from dropt.tuning.issuing import SEARCHED


def record_claims(
    session: Session, job: JobRow, lease_id: str, claimed: Sequence[tuple[TrialId, int]]
) -> None:
    """Tell which trials a lease has, with their attempts, and which leases have lost them."""
    again = [pair for pair in claimed if pair[1] > 1]
    for lost in leases.losers(session, again, project=job.project) if again else ():
        events.record(
            session, job.id, "lease.lost", project=job.project, lease=lost.lease_id,
            worker=lost.worker_id, trials=lost.n_trials,
        )  # fmt: skip
    for trial_id, attempt in claimed:
        events.record(
            session, job.id, "trial.started", project=job.project, trial=trial_id,
            attempt=attempt, lease=lease_id,
        )  # fmt: skip


def record_best(session: Session, job: JobRow, completed: Collection[TrialId]) -> None:
    """Tell it when one of the trials that have just completed is the best of its arm."""
    if job.phase != "search" or not completed:
        return
    for arm in SEARCHED:
        best = _best(session, job, arm)
        if best is not None and best.id in completed:
            events.record(
                session, job.id, "best.updated", project=job.project, trial=best.id,
                arm=arm, value=best.value,
            )  # fmt: skip


def _best(session: Session, job: JobRow, arm: str) -> TrialRow | None:
    found = trials.list_page(
        session, job.id, project=job.project, limit=1, order_by="value",
        descending=job.spec.objective.direction == "maximize", arm=arm, phase="search",
        states=["completed"],
    )  # fmt: skip
    return found[0] if found else None
