"""Time: how much of it the search may use, so that the evidence still fits."""

from dropt.spec.job import JobSpec
from dropt.storage import measurements
from dropt.storage.clock import now
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.tuning.looks import plan_looks
from dropt.tuning.shortlist import ARMS, PLANS
from dropt.tuning.simplification import SEEDS, n_first_trainings

RESERVED_SEEDS = 12  # compare seeds for which time is put aside; more may be taken if it lasts


def n_reserved_trainings(spec: JobSpec, n_groups: int) -> int:
    """Trainings of the evidence for which the search leaves room: no more are certain.

    The race, the first round of the simplification over so many groups, the comparison.
    """
    if spec.evidence is False:
        return 0
    effort = spec.evidence.effort
    shortlist = sum(PLANS[effort].n_trainings(arm) for arm in ARMS)
    simplify = n_first_trainings(n_groups, SEEDS[effort])
    seeds = min(RESERVED_SEEDS, plan_looks(effort).cap)
    return shortlist + simplify + seeds * len(spec.compare.arms)


def is_search_over_time(session: Session, job: JobRow) -> bool:
    """Whether the search has used what `seconds` or `device_seconds` leave beside the evidence.

    It is over as well once its user has stopped it.

    The cost of the evidence is told from the epochs trained so far, at the pace of this job.
    """
    budget = job.spec.budget
    if job.stop is not None:
        return True
    if budget.seconds is None and budget.device_seconds is None:
        return False
    used = measurements.consumed(session, job.id, project=job.project).values()
    device_s = sum(one.device_seconds for one in used)
    n_epochs = sum(one.n_epochs for one in used)
    per_epoch_s = device_s / n_epochs if n_epochs else 0.0
    n_groups = len(job.space.groups) if job.space is not None else 0
    n_reserved = n_reserved_trainings(job.spec, n_groups)
    reserve_s = n_reserved * job.spec.training.epochs * per_epoch_s
    if budget.device_seconds is not None and device_s + reserve_s >= budget.device_seconds:
        return True
    if budget.seconds is None or job.search_started_at is None:
        return False
    searching_s = (now(session) - job.search_started_at).total_seconds() - job.paused_seconds
    n_devices = max(device_s / searching_s, 0.1) if searching_s > 0 and device_s else 1.0
    return elapsed_s(session, job) + reserve_s / n_devices >= budget.seconds


def is_time_left(session: Session, job: JobRow) -> bool:
    """Whether more paired seeds may be trained."""
    budget = job.spec.budget
    if job.stop is not None and job.stop.phase == "evidence":
        return False
    if budget.seconds is not None and elapsed_s(session, job) >= budget.seconds:
        return False
    if budget.device_seconds is None:
        return True
    used = measurements.consumed(session, job.id, project=job.project).values()
    return sum(one.device_seconds for one in used) < budget.device_seconds


def elapsed_s(session: Session, job: JobRow) -> float:
    """Seconds since the job started, its pauses left out, by the database's clock."""
    if job.started_at is None:
        return 0.0
    return (now(session) - job.started_at).total_seconds() - job.paused_seconds
