"""Stored trainings of the comparison with their scores on the test split."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from dropt.storage import artifacts
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.trials import TrialRow
from dropt.tuning.comparison import Training
from dropt.tuning.score_files import ScoreFile, constant_scores, read_scores
from dropt.tuning.service import Service

SCORES = "scores:test"

Side = TypeVar("Side", bound=Hashable)  # an arm, or what was taken out of one


def read_trainings(
    service: Service, session: Session, job: JobRow, sides: Mapping[Side, Sequence[TrialRow]]
) -> dict[Side, list[Training]]:
    """The trainings with their scores; one that diverged has those of the constant predictor.

    Raises:
        ValueError: one that ended well has no scores, or all have diverged.
        FileNotFoundError: the scores have vanished.
        InvalidRequest: the scores cannot be read.
    """
    found = {
        row.id: _scores(service, session, row)
        for of_side in sides.values()
        for row in of_side
        if row.reason != "diverged"
    }
    if not found:
        raise ValueError("every training diverged")
    constant = constant_scores(next(iter(found.values())), job.spec.task)
    return {
        side: [Training(row, found.get(row.id, constant)) for row in of_side]
        for side, of_side in sides.items()
    }


def _scores(service: Service, session: Session, row: TrialRow) -> ScoreFile:
    files = artifacts.of_trial(session, row.id, project=row.project)
    if SCORES not in files:
        raise ValueError(f"trial {row.id} has no scores")
    return read_scores(service.artifacts.path(files[SCORES]))
