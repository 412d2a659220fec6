"""Trainings of the evidence: made of a configuration and a fresh seed, stored exactly once."""

from collections.abc import Sequence

from dropt.spec.ids import TrialId
from dropt.spec.results import TrialPhase
from dropt.storage import events, jobs, trials
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.trials import NewTrial
from dropt.tuning.configurations import params_of, rates_by_group
from dropt.tuning.seeds import Purpose, trial_seed
from dropt.tuning.service import Service
from dropt.tuning.shortlist import Configuration

PURPOSES: dict[TrialPhase, Purpose] = {
    "shortlist": "shortlist",
    "simplify": "simplify",
    "compare": "compare",
    "ablate": "compare",  # pairs with the trainings of the comparison
}


def fresh_trial(
    job: JobRow,
    arm: str,
    phase: TrialPhase,
    configuration: Configuration,
    *,
    number: int,
    index: int,
    origin: str | None,
    candidate: int | None = None,
) -> NewTrial:
    """A training of the evidence; its seed does not name the arm, which pairs the arms.

    `number` counts within arm and phase, `index` is that of the seed.
    """
    assert job.space is not None  # a job that has searched has one
    return NewTrial(
        job_id=job.id,
        arm=arm,
        phase=phase,
        number=number,
        seed_index=str(index),
        seed=trial_seed(job.spec.search.seed, PURPOSES[phase], index),
        epochs=job.spec.training.epochs,
        params=params_of(configuration),
        rates=rates_by_group(job.space, configuration.sites),
        sites=configuration.on,
        candidate=candidate,
        origin=None if origin is None else TrialId(origin),
    )


def insert(
    service: Service, job: JobRow, new: Sequence[NewTrial], *, of_phase: TrialPhase, n_before: int
) -> None:
    """Store new trials unless another process has done so meanwhile."""
    with service.database.writing() as session:
        is_wanted = goes_on(session, job)
        counts = trials.counts(session, job.id, project=job.project)
        n_now = sum(n for (_, phase, _), n in counts.items() if phase == of_phase)
        if is_wanted and n_now == n_before:
            trials.insert_many(session, new, project=job.project)
            events.record(
                session, job.id, f"evidence.{of_phase}", project=job.project, trials=len(new)
            )


def goes_on(session: Session, job: JobRow) -> bool:
    """Whether the evidence is still wanted; nothing ends the job until the commit."""
    current = jobs.lock(session, job.id, project=job.project)
    return (current.state, current.phase) == ("running", "evidence")
