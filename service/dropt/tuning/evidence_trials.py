"""Trainings of the evidence: made of a configuration and a fresh seed, stored exactly once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from dropt.spec.ids import TrialId
from dropt.spec.results import WORKING, TrialPhase
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
    """Store new trials unless another process has done so meanwhile.

    In a later attempt at a verdict they go on with the numbers and the seeds of the one before.
    """
    with service.database.writing() as session:
        is_wanted = goes_on(session, job)
        counts = trials.counts(session, job.id, project=job.project)
        n_now = sum(n for (_, phase, _), n in counts.items() if phase == of_phase)
        if is_wanted and n_now == n_before:
            fresh = new if job.verdict_attempt == 1 else _after_earlier(session, job, new)
            trials.insert_many(session, fresh, project=job.project)
            events.record(
                session, job.id, f"evidence.{of_phase}", project=job.project, trials=len(new)
            )


def goes_on(session: Session, job: JobRow) -> bool:
    """Whether the evidence is still wanted; nothing ends the job until the commit."""
    current = jobs.lock(session, job.id, project=job.project)
    is_there = current.state in WORKING and current.phase == "evidence"
    return is_there and current.has_aims_of(job)


def _after_earlier(session: Session, job: JobRow, new: Sequence[NewTrial]) -> list[NewTrial]:
    """The same trials with numbers and seeds that no earlier attempt at a verdict has used."""
    rows = trials.list_of(session, job.id, project=job.project, with_superseded=True)
    earlier = [row for row in rows if row.superseded]
    n_before = Counter((row.arm, row.phase) for row in earlier)
    n_seeds: dict[Purpose, int] = {}
    for row in earlier:
        purpose = PURPOSES[row.phase]
        n_seeds[purpose] = max(n_seeds.get(purpose, 0), int(row.seed_index) + 1)
    moved = []
    for one in new:
        purpose = PURPOSES[one.phase]
        index = int(one.seed_index) + n_seeds.get(purpose, 0)
        moved.append(
            replace(
                one, number=one.number + n_before[one.arm, one.phase], seed_index=f"{index}",
                seed=trial_seed(job.spec.search.seed, purpose, index),
            )
        )  # fmt: skip
    return moved
