"""One trial: its record, its curve and its capsule; `-` for the job finds it by its own id."""

from fastapi import APIRouter

from dropt.api.deps import ProjectDep, ServiceDep
from dropt.api.problems import problems
from dropt.errors import NotFound
from dropt.jobs import trials
from dropt.spec.capsule import Capsule, Curve
from dropt.spec.results import TrialRead

router = APIRouter(prefix="/v1/jobs/{job}/trials/{trial}", tags=["answers"])


@router.get("", operation_id="get_trial", responses=problems(NotFound))
def get_trial(job: str, trial: str, service: ServiceDep, project: ProjectDep) -> TrialRead:
    """One trial of a job."""
    return trials.read_trial(service, job, trial, project=project)


@router.get("/curve", operation_id="get_trial_curve", responses=problems(NotFound))
def get_curve(job: str, trial: str, service: ServiceDep, project: ProjectDep) -> Curve:
    """Losses and metrics of a trial, epoch by epoch."""
    return trials.curve(service, job, trial, project=project)


@router.get("/capsule", operation_id="get_trial_capsule", responses=problems(NotFound))
def get_capsule(job: str, trial: str, service: ServiceDep, project: ProjectDep) -> Capsule:
    """Everything that trains a trial again, alone: settings, seeds, digests, versions, curve."""
    return trials.capsule(service, job, trial, project=project)
