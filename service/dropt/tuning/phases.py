"""The life of a job: one step forward at a time, each in a transaction that may be repeated."""

import logging
from collections.abc import Callable

from dropt.errors import InvalidRequest
from dropt.spec.inspection import Inspection
from dropt.spec.job import JobSpec
from dropt.spec.protocol import DatasetOffer
from dropt.spec.results import WORKING, Cost, Failure, JobState, Phase, TrialState
from dropt.spec.space import Space
from dropt.storage import arms, datasets, events, inspections, jobs, trials, workers
from dropt.storage.clock import now_expression
from dropt.storage.inspections import InspectionRow
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.tuning import gathering
from dropt.tuning.budget import is_search_over_time
from dropt.tuning.comparison import untested
from dropt.tuning.configurations import candidate_of
from dropt.tuning.ending import fail, finish
from dropt.tuning.issuing import SEARCHED
from dropt.tuning.looks import CAPS
from dropt.tuning.service import Service
from dropt.tuning.shortlist import ARMS, ArmName, is_eligible
from dropt.tuning.space import build_space
from dropt.tuning.verdict import Reason, not_tested
from dropt.tuning.work import inspection_key, inspection_request

logger = logging.getLogger(__name__)

QUEUED: tuple[JobState, ...] = ("queued",)
WAITING: tuple[TrialState, ...] = ("waiting",)
TRAINING: tuple[TrialState, ...] = ("running",)
FAILED: tuple[TrialState, ...] = ("failed",)


def advance(service: Service, job: JobRow) -> None:
    """Take a job one step forward, if it can go; the same step twice changes nothing more."""
    state: JobState = "running" if job.state in WORKING else job.state
    step = _STEPS.get((state, job.phase if state == "running" else None))
    if step is not None:
        step(service, job)


def _start(service: Service, job: JobRow) -> None:
    """A queued job starts as soon as a live worker offers its model and has its data."""
    with service.database.writing() as session:
        catalogue = workers.offers(session, project=job.project)
        data = catalogue.datasets.get(job.dataset)
        reason = _obstacle(job, catalogue) or _crowd(session, job, service.quotas.running_jobs)
        if reason is not None:
            if reason != job.reason:
                jobs.update(session, job.id, project=job.project, reason=reason)
            return
        assert data is not None  # else there was a reason
        inspection_id = inspections.request(
            session,
            inspection_key(job.spec),
            inspection_request(job, uploaded=data.kind == "uploaded"),
            project=job.project,
        )
        moved = jobs.move(
            session, job.id, project=job.project, from_=QUEUED, state="running",
            phase="preparing", inspection_id=inspection_id, started_at=now_expression(),
            reason="A worker looks for the sites of the model.",
        )  # fmt: skip
        if moved:
            _record_phase(session, job, "preparing")


def _obstacle(job: JobRow, catalogue: workers.Catalogue) -> str | None:
    """What a job lacks of workers, None when it could start."""
    model, data = catalogue.models.get(job.model), catalogue.datasets.get(job.dataset)
    if model is None or model.n_workers == 0:
        return f"Waiting for a worker that offers model '{job.model}'."
    if data is None or (data.kind == "offered" and data.n_workers == 0):
        return f"Waiting for a worker that has data set '{job.dataset}'."
    return None


def _crowd(session: Session, job: JobRow, limit: int) -> str | None:
    """That its project runs as many jobs as it may, None when there is room for one more."""
    n_running = jobs.count(session, project=job.project, state=WORKING)
    if n_running < limit:
        return None
    return f"Waiting for one of the {n_running} running jobs of this project to end."


def _prepare(service: Service, job: JobRow) -> None:
    """Lay out groups, arms and budgets once the model was inspected."""
    assert job.inspection_id is not None  # requested when the job started
    if job.stop is not None:
        _end_search(service, job)
        return
    with service.database.reading() as session:
        row = inspections.get(session, job.inspection_id, project=job.project)
    if row.state == "failed":
        assert row.failure is not None  # stored with the state
        fail(service, job, row.failure.reason, row.failure.detail)
    elif row.state == "done":
        try:
            assert row.result is not None  # an inspection that is done has one
            space = space_of(row.result, job.spec)
        except InvalidRequest as error:
            fail(service, job, error.errors[0].code if error.errors else error.code, str(error))
            return
        _lay_out(service, job, row, space)


def space_of(found: Inspection, spec: JobSpec) -> Space:
    """The space of a job on an inspected model; raises as `build_space`."""
    probe = found.probe
    slots = 1 if probe is None or probe.lane == "solo" else probe.slots
    space = build_space(found, spec.search, epochs=spec.training.epochs, trials=spec.budget.trials)
    return space.model_copy(update={"slots": slots})


def _lay_out(service: Service, job: JobRow, row: InspectionRow, space: Space) -> None:
    assert row.result is not None  # an inspection that is done has one
    found = tuple(f"{one.code}: {one.message}" for one in row.result.findings)
    with service.database.writing() as session:
        if not _is_in(session, job, "preparing"):
            return
        jobs.update(
            session, job.id, project=job.project, phase="search", space=space,
            warnings=(*job.warnings, *found), search_started_at=now_expression(), reason=None,
        )  # fmt: skip
        probe = None if row.result.probe is None else row.result.probe.model_dump()
        events.record(
            session, job.id, "inspection.done", project=job.project, sites=len(space.sites),
            groups=len(space.groups), probe=probe,
        )  # fmt: skip
        for warning in found:
            events.record(session, job.id, "warning", project=job.project, message=warning)
        for arm in job.spec.compare.arms:
            is_searched = arm in SEARCHED
            arms.insert(
                session, job.id, arm, project=job.project, searched=is_searched,
                target=job.spec.budget.trials if is_searched else 0,
                study=f"{job.id}/{arm}" if is_searched else None,
            )  # fmt: skip
            events.record(session, job.id, "arm.created", project=job.project, arm=arm)
        _record_phase(session, job, "search")


def _search(service: Service, job: JobRow) -> None:
    """End the search when every trial of every arm has ended, or the time is up."""
    with service.database.reading() as session:
        rows = [row for row in arms.list_of(session, job.id, project=job.project) if row.searched]
        counts = trials.counts(session, job.id, project=job.project)
        over_time = is_search_over_time(session, job)
        failure = _too_many_failures(session, job)
    if failure is not None:
        fail(service, job, failure.reason, failure.message)
        return
    n_open = sum(
        n for (_, phase, state), n in counts.items()
        if phase == "search" and state in ("waiting", "running")
    )  # fmt: skip
    is_issued = all(row.issued >= row.target for row in rows)
    if over_time and not (is_issued and n_open == 0):
        _close_search(service, job)
    elif is_issued and n_open == 0:
        _end_search(service, job)


def _too_many_failures(session: Session, job: JobRow) -> Failure | None:
    """Why the search cannot go on; data that differ from their digest end it at once."""
    wrong_data = [
        row
        for row in trials.list_of(session, job.id, project=job.project, states=FAILED)
        if row.reason == "data"
    ]
    if wrong_data:
        return Failure(reason="data", message=wrong_data[0].detail or "The data differ.")
    n_failed = trials.count_failed(session, job.id, project=job.project)
    if n_failed <= job.spec.budget.max_failed_trials:
        return None
    return Failure(
        reason="max_failed_trials",
        message=f"{n_failed} trials failed, allowed are {job.spec.budget.max_failed_trials}; "
        "see the reasons under /trials?state=failed",
    )


def _close_search(service: Service, job: JobRow) -> None:
    """The time is up: nothing more is issued, what waits is dropped, what runs ends now.

    What runs when its user stops the search may end as it would have.
    """
    with service.job_lock(job.id), service.database.writing() as session:
        if not _is_in(session, job, "search"):
            return
        close_budgets(session, job, reason="time" if job.stop is None else "stopped")
        if job.stop is not None:
            return
        running = trials.list_of(
            session, job.id, project=job.project, phase="search", states=TRAINING
        )
        trials.request_stop(session, [row.id for row in running], project=job.project)


def close_budgets(session: Session, job: JobRow, *, reason: str) -> None:
    """Issue no more search trials, and drop those that wait."""
    for arm in SEARCHED:
        arms.close(session, job.id, arm, project=job.project)
    for row in trials.cancel_open(
        session, job.id, project=job.project, phase="search", states=WAITING
    ):
        events.record(
            session, job.id, "trial.cancelled", project=job.project, trial=row.id,
            attempt=row.attempt, reason=reason,
        )  # fmt: skip


def _end_search(service: Service, job: JobRow) -> None:
    """Go on to the evidence, or end the job at once where there can be none."""
    reason = _why_not_tested(service, job)
    if reason is not None:
        with service.database.reading() as session:
            cost = Cost(device_seconds=gathering.device_seconds(session, job))
        finish(service, job, untested(job, reason, (), cost))
        return
    with service.database.writing() as session:
        if not _is_in(session, job, "search"):
            return
        jobs.update(
            session, job.id, project=job.project, phase="evidence",
            search_ended_at=now_expression(), reason=None,
        )  # fmt: skip
        _record_phase(session, job, "evidence")


def _why_not_tested(service: Service, job: JobRow) -> Reason | None:
    with service.database.reading() as session:
        offer = datasets.get(session, job.dataset, project=job.project).offer
        rows = trials.list_of(session, job.id, project=job.project, phase="search")
    evidence = job.spec.evidence
    is_compared = all(arm in job.spec.compare.arms for arm in ARMS)
    is_wanted = job.stop is None or job.stop.evidence
    decision = not_tested(
        evidence=evidence is not False and is_wanted,
        n_test_examples=n_test_rows(offer, job.spec),
        n_seeds_possible=CAPS[evidence.effort] if evidence is not False else 0,
        arms_finished=is_compared
        and all(_has_finished(arm, [row for row in rows if row.arm == arm]) for arm in ARMS),
    )
    return None if decision is None else decision.reason


def n_test_rows(offer: DatasetOffer, spec: JobSpec) -> int:
    """Test rows of the split that the job uses; a hash split by class may have a few more."""
    split = spec.dataset.split
    if split is None or split.method == "given":
        return offer.split_rows.get("test", 0)
    if split.test == 0:
        return 0
    return offer.rows - int(split.train * offer.rows) - int(split.validation * offer.rows)


def _has_finished(arm: ArmName, rows: list[trials.TrialRow]) -> bool:
    return any(is_eligible(arm, candidate_of(row)) for row in rows)


def _gather(service: Service, job: JobRow) -> None:
    """One step of the evidence; stopped without it, the job ends with what was told last."""
    if job.stop is None or job.stop.evidence:
        gathering.gather(service, job)
        return
    told = job.verdict
    if told is None or told.attempt != job.verdict_attempt:
        _end_search(service, job)
    else:
        finish(service, job, told.model_copy(update={"provisional": False}))


def _cancel(service: Service, job: JobRow) -> None:
    finish(service, job, None, state="cancelled", ended_by="cancelled")


def _is_in(session: Session, job: JobRow, phase: Phase) -> bool:
    """Whether the job still is where this step begins; nothing moves it until the commit."""
    current = jobs.lock(session, job.id, project=job.project)
    is_there = current.state in WORKING and current.phase == phase
    return is_there and current.has_aims_of(job)


def _record_phase(session: Session, job: JobRow, phase: str) -> None:
    events.record(session, job.id, "job.phase", project=job.project, phase=phase)
    logger.debug("phase.advanced", extra={"job": job.id, "phase": phase})


_Step = Callable[[Service, JobRow], None]
_STEPS: dict[tuple[JobState, str | None], _Step] = {
    ("queued", None): _start,
    ("running", "preparing"): _prepare,
    ("running", "search"): _search,
    ("running", "evidence"): _gather,
    ("cancelling", None): _cancel,
}
