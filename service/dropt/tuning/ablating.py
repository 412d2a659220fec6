"""The step after a verdict of `helps`: the tested configuration without each of its sites."""

import logging
from collections.abc import Sequence

from dropt.errors import InvalidRequest
from dropt.spec.results import AblationRead, VerdictRead
from dropt.storage.jobs import JobRow
from dropt.storage.trials import TrialRow
from dropt.tuning.ablation import MAX_SEEDS, ablation_table, units_to_ablate
from dropt.tuning.comparison import PRIMARY
from dropt.tuning.ending import finish
from dropt.tuning.evidence_trials import fresh_trial, insert
from dropt.tuning.service import Service
from dropt.tuning.simplification import Unit
from dropt.tuning.trainings import read_trainings
from dropt.tuning.winners import Winner

logger = logging.getLogger(__name__)

WHOLE: Unit = ()  # the configuration from which nothing is taken out


def ablate(
    service: Service, job: JobRow, verdict: VerdictRead, winner: Winner, *, budget_left: bool
) -> bool:
    """Train the ablation; False where there is none: it belongs to dropout that helps.

    `quick` does without, and so does a job whose time is up.
    """
    evidence = job.spec.evidence
    units = _units(job, winner)
    is_due = verdict.verdict == "helps" and evidence is not False and evidence.effort != "quick"
    if not (is_due and units and budget_left):
        return False
    n_seeds = min(MAX_SEEDS, verdict.seeds)
    new = [
        fresh_trial(
            job, PRIMARY, "ablate", winner.configuration.without(unit),
            number=place * n_seeds + r, index=r, origin=winner.trial, candidate=place,
        )
        for place, unit in enumerate(units)
        for r in range(n_seeds)
    ]  # fmt: skip
    insert(service, job, new, of_phase="ablate", n_before=0)
    return True


def end_ablation(service: Service, job: JobRow, rows: Sequence[TrialRow], winner: Winner) -> None:
    """Add the table to the verdict and end the job; the verdict stands whatever comes of it."""
    assert job.verdict is not None  # it was told before the ablation began
    try:
        table = _table(service, job, rows, winner)
    except (InvalidRequest, ValueError, FileNotFoundError) as error:
        logger.warning("ablation.failed", extra={"job": job.id, "reason": str(error)})
        table = ()
    finish(service, job, job.verdict.model_copy(update={"ablation": table}))


def _table(
    service: Service, job: JobRow, rows: Sequence[TrialRow], winner: Winner
) -> tuple[AblationRead, ...]:
    """Units of which a training failed for good are left out."""
    units = _units(job, winner)
    found: dict[Unit, list[TrialRow]] = {}
    for place, unit in enumerate(units):
        of_unit = [row for row in rows if (row.phase, row.candidate) == ("ablate", place)]
        if all(row.state == "completed" or row.reason == "diverged" for row in of_unit):
            found[unit] = _by_seed(of_unit)
    if not found:
        return ()
    n_seeds = len(next(iter(found.values())))
    compared = [row for row in rows if (row.phase, row.arm) == ("compare", PRIMARY)]
    with service.database.reading() as session:
        trainings = read_trainings(
            service, session, job, {WHOLE: _by_seed(compared)[:n_seeds], **found}
        )
    whole = trainings.pop(WHOLE)
    return ablation_table(job.spec.objective.metric, whole, trainings)


def _units(job: JobRow, winner: Winner) -> tuple[Unit, ...]:
    assert job.space is not None  # a job that has searched has one
    return units_to_ablate(winner.configuration, [group.sites for group in job.space.groups])


def _by_seed(rows: Sequence[TrialRow]) -> list[TrialRow]:
    return sorted(rows, key=lambda row: int(row.seed_index))
