"""One trial: what it is, how it went, and all that trains it again."""

from dropt import __version__
from dropt.errors import NotFound
from dropt.jobs.reading import trial_read
from dropt.spec.capsule import Capsule, Curve, Provenance
from dropt.spec.results import TrialRead
from dropt.storage import datasets, jobs, measurements, trials, workers
from dropt.storage.session import Session
from dropt.storage.trial_rows import TrialRow
from dropt.tuning.service import Service
from dropt.tuning.work import assignment, leased_dataset, leased_model

ANY_JOB = "-"  # in a path: a trial's own id says which job it is of (AIP-159)


def read_trial(service: Service, job_id: str, trial_id: str, *, project: str) -> TrialRead:
    """A trial of a job, or of any job. Raises NotFound."""
    with service.database.reading() as session:
        return trial_read(_find(session, job_id, trial_id, project=project))


def curve(service: Service, job_id: str, trial_id: str, *, project: str) -> Curve:
    """The epochs that a trial has reported. Raises NotFound."""
    with service.database.reading() as session:
        row = _find(session, job_id, trial_id, project=project)
        return _curve(session, row)


def capsule(service: Service, job_id: str, trial_id: str, *, project: str) -> Capsule:
    """What reproduces a trial. Raises NotFound."""
    with service.database.reading() as session:
        row = _find(session, job_id, trial_id, project=project)
        job = jobs.get(session, row.job_id, project=project)
        data = datasets.get(session, job.spec.dataset.name, project=project)
        return Capsule(
            job=job.id, dropt=__version__, command=f"dropt reproduce {row.id}.json",
            model=leased_model(job), dataset=leased_dataset(job, uploaded=data.kind == "uploaded"),
            training=job.spec.training, objective=job.spec.objective, phase=row.phase,
            trial=assignment(row), state=row.state, provenance=_provenance(session, row),
            curve=_curve(session, row), best_epoch=row.best_epoch, values=row.values,
        )  # fmt: skip


def _find(session: Session, job_id: str, trial_id: str, *, project: str) -> TrialRow:
    row = trials.get(session, trial_id, project=project)
    if job_id not in (ANY_JOB, row.job_id):
        raise NotFound(f"Job '{job_id}' has no trial '{trial_id}'; it is of '{row.job_id}'")
    return row


def _curve(session: Session, row: TrialRow) -> Curve:
    points = measurements.curve(session, row.id, project=row.project)
    names = sorted({name for point in points for name in point.metrics})
    return Curve(
        epoch=tuple(point.epoch for point in points),
        train_loss=tuple(point.train_loss for point in points),
        train_eval_loss=tuple(point.train_eval_loss for point in points),
        validation_loss=tuple(point.validation_loss for point in points),
        metrics={name: tuple(point.metrics.get(name) for point in points) for name in names},
    )


def _provenance(session: Session, row: TrialRow) -> Provenance | None:
    if row.worker_id is None:
        return None
    worker = workers.get(session, row.worker_id, project=row.project)
    about = worker.registration
    return Provenance(worker=worker.name, device=about.device.name, versions=about.versions)
