"""What trials of the search score at rungs, and which of them go on there."""

import math
from typing import Any

from dropt.spec.ids import TrialId
from dropt.spec.protocol import Measurement, Report
from dropt.storage import measurements, trials
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.trials import TrialRow
from dropt.tuning.pruning import Decision, RungScore, judge
from dropt.tuning.screened import screened_numbers, screening_rung
from dropt.tuning.work import job_rungs


def objective_value(values: Any, job: JobRow) -> float | None:
    """The objective among values of a split; None when it is missing or not finite."""
    value = values.get(job.spec.objective.metric)
    return value if value is not None and math.isfinite(value) else None


def rung_values(job: JobRow, report: Report) -> dict[TrialId, dict[int, float]]:
    """The values at rungs that a report brings, as they will be stored."""
    values: dict[TrialId, dict[int, float]] = {}
    for one in report.measurements:
        value = objective_value(one.metrics, job)
        if value is not None and one.epoch in job_rungs(job):
            values.setdefault(TrialId(one.trial), {})[one.epoch] = value
    return values


def decide_rung(session: Session, job: JobRow, row: TrialRow, measured: Measurement) -> None:
    """Compare the trial that was measured with those that were at this rung before it, once."""
    value = objective_value(measured.metrics, job)
    if measured.epoch not in job_rungs(job) or value is None:
        return
    if row.phase != "search":
        return
    decision = _decision(session, job, row, measured.epoch, value)
    is_new = measurements.add_rung(
        session, row.id, measured.epoch, project=job.project, job_id=job.id, arm=row.arm,
        value=value, decision=decision.value,
    )  # fmt: skip
    if is_new and decision is Decision.STOP:
        trials.request_stop(session, [row.id], project=job.project)


def _decision(session: Session, job: JobRow, row: TrialRow, epoch: int, value: float) -> Decision:
    """Screening trials end at their rung, whatever they score; the others are judged."""
    assert job.space is not None  # trials exist once there is a space
    rungs = job_rungs(job)
    screened = screened_numbers(job.space, job.spec.search, row.arm)
    if row.number in screened:
        return Decision.STOP if epoch == screening_rung(rungs) else Decision.GO_ON
    scores = measurements.rung_scores(session, job.id, row.arm, epoch, project=job.project)
    return judge(
        job.spec.search.pruner,
        rung=epoch,
        rungs=rungs,
        number=row.number,
        value=value,
        rivals=[RungScore(*score) for score in scores if score[0] not in screened],
        direction=job.spec.objective.direction,
    )
