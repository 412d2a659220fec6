"""What a worker reports of its lease: measured, finished, and how many slots are free.

A report is stored whole or not at all, and its answer with it, so that a repetition gets the
same answer. Only the fence (`leases.hold`) decides whether a worker may still write.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dropt.errors import FieldError, InvalidRequest, LeaseLost, SequenceMismatch
from dropt.spec.ids import TrialId
from dropt.spec.protocol import Finished, Report, ReportAnswer
from dropt.spec.results import WORKING, TrialState
from dropt.storage import (
    arms,
    artifacts,
    events,
    inspections,
    jobs,
    leases,
    measurements,
    trials,
    workers,
)
from dropt.storage.jobs import JobRow
from dropt.storage.leases import LeaseRow
from dropt.storage.losses import MAX_FAILURES
from dropt.storage.session import Session
from dropt.storage.trials import TrialRow
from dropt.tuning.issuing import Proposals, issue, propose
from dropt.tuning.milestones import record_best, record_claims
from dropt.tuning.rungs import decide_rung, objective_value, rung_values
from dropt.tuning.score_files import read_scores
from dropt.tuning.service import Service
from dropt.tuning.work import assignment, job_rungs

logger = logging.getLogger(__name__)

RETRIED = ("error", "out_of_memory", "unsupported")


@dataclass(frozen=True)
class End:
    """What becomes of a trial that its worker has ended: final, or waiting for a retry."""

    state: TrialState
    value: float | None = None
    reason: str | None = None
    is_retry: bool = False


@dataclass(frozen=True)
class Taken:
    """A report with what it means: the ends that it brings, and the trials that it decides."""

    report: Report
    body_sha256: str
    ends: Mapping[TrialId, End]
    rows: Mapping[TrialId, TrialRow]  # of those that end or are at a rung


@dataclass(frozen=True)
class _News:
    """What a worker is told with the answer to a report.

    A trial that it had lost may be among the added ones again.
    """

    given: leases.Given  # before the added ones
    added: tuple[TrialRow, ...]
    is_draining: bool


def take_report(
    service: Service, lease_id: str, report: Report, body_sha256: str, *, project: str
) -> ReportAnswer:
    """Store a report and say what to do next.

    Raises:
        NotFound: no such lease.
        LeaseLost: a trial is held by another attempt; nothing is stored.
        SequenceMismatch: the report is neither the next nor a repetition of the last.
    """
    logger.debug("report.received", extra={"lease": lease_id, "sequence": report.sequence})
    with service.database.reading() as session:
        lease = leases.get(session, lease_id, project=project)
    if _is_repetition(lease, report, body_sha256):
        return _repeat(service, lease, project=project)
    take = _take_inspection if lease.kind == "inspect" else _take_trials
    try:
        answer = take(service, lease, report, body_sha256, project=project)
    except SequenceMismatch:
        # Sent again while the first was being stored: that one has answered meanwhile.
        with service.database.reading() as session:
            lease = leases.get(session, lease_id, project=project)
        if not _is_repetition(lease, report, body_sha256):
            raise
        return _repeat(service, lease, project=project)
    logger.debug("report.stored", extra={"lease": lease_id, "sequence": report.sequence})
    if answer.end or lease.step != "search":  # else the job cannot go on by it
        service.wake.set()
    return answer


def give_back_trials(session: Session, lease: LeaseRow, *, project: str) -> None:
    """Close a lease; what it still holds waits again, and counts as no loss."""
    held = [one.id for one in leases.held_trials(session, lease.id, project=project)]
    for trial_id in trials.requeue(session, held, project=project, lease_id=lease.id):
        assert lease.job_id is not None  # a lease with trials has a job
        events.record(
            session, lease.job_id, "trial.given_back", project=project, trial=trial_id,
            lease=lease.id,
        )  # fmt: skip
    if lease.inspection_id is not None:
        inspections.requeue(session, lease.inspection_id, lease.id, project=project)
    leases.close(session, lease.id, project=project)


def end_of(finished: Finished, trial: TrialRow, job: JobRow) -> End:
    """What the end that a worker reports means for the trial.

    A value that is not finite is a failure, whatever the worker calls it.
    """
    if finished.outcome == "failed":
        reason = finished.reason or "error"
        is_retry = reason in RETRIED and trial.failures + 1 < MAX_FAILURES
        return End("failed", reason=reason, is_retry=is_retry)
    value = objective_value(finished.values.get("validation", {}), job)
    if value is None and finished.outcome == "completed":
        return End("failed", reason="diverged")
    return End("completed" if finished.outcome == "completed" else "pruned", value=value)


def _is_repetition(lease: LeaseRow, report: Report, body_sha256: str) -> bool:
    return report.sequence == lease.sequence and body_sha256 == lease.body_sha256


def _repeat(service: Service, lease: LeaseRow, *, project: str) -> ReportAnswer:
    """The stored answer with a fresh time to live: the lease is renewed once more."""
    assert lease.answer is not None  # stored with the sequence
    with service.database.writing() as session:
        leases.renew(
            session, [lease.id], lease.worker_id, project=project, lease_s=service.lease_s
        )
    return lease.answer.model_copy(update={"expires_in": service.lease_s})


def _check_sequence(lease: LeaseRow, report: Report) -> None:
    if report.worker != lease.worker_id:
        raise InvalidRequest.of(
            FieldError("/worker", "not-the-holder", "The lease belongs to another worker.",
                       received=report.worker)
        )  # fmt: skip
    if report.sequence != lease.sequence + 1:
        raise SequenceMismatch(expected=lease.sequence + 1, received=report.sequence)


def _take_inspection(
    service: Service, lease: LeaseRow, report: Report, body_sha256: str, *, project: str
) -> ReportAnswer:
    found = report.inspection
    outcome = None if found is None else (found.result or found.failure)
    with service.database.writing() as session:
        current = leases.get(session, lease.id, project=project, lock=True)
        _check_sequence(current, report)
        if outcome is not None and lease.inspection_id is not None:
            held = inspections.finish(
                session, lease.inspection_id, lease.id, outcome, project=project
            )
            if not held:
                raise LeaseLost([], lease_held=False)
        if report.done:
            give_back_trials(session, current, project=project)
        is_draining = workers.is_draining(session, current.worker_id, project=project)
        news = _News(leases.Given([], []), (), is_draining)
        return _answer(session, service, current, report, body_sha256, news, end=True)


def _take_trials(
    service: Service, lease: LeaseRow, report: Report, body_sha256: str, *, project: str
) -> ReportAnswer:
    assert lease.job_id is not None  # a lease to train has a job
    with service.database.reading() as session:
        job = jobs.get(session, lease.job_id, project=project)
        rows = trials.get_many(session, _decided(report, job), project=project)
    ends = {
        TrialId(one.trial): end_of(one, rows[TrialId(one.trial)], job) for one in report.finished
    }
    for one in report.finished:
        _check_scores(service, one, project=project)
    taken = Taken(report, body_sha256, ends, rows)
    with service.job_lock(job.id):  # from the asking to the issuing
        try:
            _foretell(service, job, taken)
            is_stored, answer = _store(service, lease, job, taken, _propose(service, job, taken))
        except Exception:
            service.forget(job.id)  # the samplers were told of ends that were not stored
            raise
        if not is_stored:
            service.forget(job.id)
    return answer


def _decided(report: Report, job: JobRow) -> set[TrialId]:
    """The trials of which more is to be known than that they are held: at a rung, or at an end."""
    rungs = job_rungs(job)
    at_rungs = {TrialId(one.trial) for one in report.measurements if one.epoch in rungs}
    return at_rungs | {TrialId(one.trial) for one in report.finished}


def _propose(service: Service, job: JobRow, taken: Taken) -> Proposals:
    """New trials for the slots that are free: drawn before the transaction, stored in it."""
    if job.phase != "search" or job.state != "running" or taken.report.done:
        return {}
    ending = Counter(taken.rows[id].arm for id, end in taken.ends.items() if not end.is_retry)
    return propose(service, job, taken.report.free_slots, ending=ending)


def _check_scores(service: Service, one: Finished, *, project: str) -> None:
    """Refuse an end whose scores are not here or cannot be read."""
    for sha256 in one.scores.values():
        with service.database.reading() as session:
            is_known = artifacts.exists(session, sha256, project=project)
        if not is_known or not service.artifacts.has(sha256):
            raise InvalidRequest.of(
                FieldError(
                    "/finished", "unknown-artifact",
                    "The artifact is not here; upload it, then send the report again.",
                    received=sha256,
                )
            )  # fmt: skip
        read_scores(service.artifacts.path(sha256))


def _foretell(service: Service, job: JobRow, taken: Taken) -> None:
    """Tell the samplers before they are asked again; the same is stored right after."""
    ends, rows = taken.ends, taken.rows
    measured = rung_values(job, taken.report)
    searched = [rows[id] for id, end in ends.items() if not end.is_retry]
    for known in service.known(job, [row for row in searched if row.phase == "search"]):
        end = ends[known.trial]
        ended = replace(
            known, state=end.state, value=end.value, diverged=end.reason == "diverged",
            rungs={**measured.get(known.trial, {}), **known.rungs},
        )  # fmt: skip
        service.memory(job, rows[known.trial].arm).tell(ended)


def _store(
    service: Service,
    lease: LeaseRow,
    job: JobRow,
    taken: Taken,
    proposals: Proposals,
) -> tuple[bool, ReportAnswer]:
    """Everything of a report in one transaction; whether the proposals were stored, the answer."""
    project, report, ends = job.project, taken.report, taken.ends
    with service.database.writing() as session:
        job = jobs.lock(session, job.id, project=project)
        current = leases.get(session, lease.id, project=project, lock=True)
        _check_sequence(current, report)
        _hold(session, current, report, project=project)
        measurements.add_many(session, report.measurements, project=project)
        rungs = job_rungs(job)
        for measured in report.measurements:
            if measured.epoch in rungs:
                decide_rung(session, job, taken.rows[TrialId(measured.trial)], measured)
        for finished in report.finished:
            _store_end(session, job, finished, ends[TrialId(finished.trial)])
        record_best(session, job, {id for id, end in ends.items() if end.state == "completed"})
        if report.done:
            give_back_trials(session, current, project=project)
        is_stored = not proposals or issue(session, service, job, proposals)
        answer = _answer_trials(session, service, current, job, report, taken.body_sha256)
    return is_stored, answer


def _hold(session: Session, lease: LeaseRow, report: Report, *, project: str) -> None:
    pairs = _pairs(report)
    leases.hold(session, pairs, project=project)
    if not pairs and not lease.is_open:
        raise LeaseLost([], lease_held=False)


def _pairs(report: Report) -> set[tuple[TrialId, int]]:
    """Every trial that a report writes to, with the attempt it claims."""
    measured = {(TrialId(one.trial), one.attempt) for one in report.measurements}
    saved = {(TrialId(one.trial), one.attempt) for one in report.checkpoints}
    return measured | saved | {(TrialId(one.trial), one.attempt) for one in report.finished}


def _store_end(session: Session, job: JobRow, finished: Finished, end: End) -> None:
    for split, sha256 in finished.scores.items():
        artifacts.attach(session, finished.trial, f"scores:{split}", sha256, project=job.project)
    if end.is_retry:
        trials.requeue(
            session, [finished.trial], project=job.project, failed=True, reason=end.reason,
            detail=finished.detail,
        )  # fmt: skip
    else:
        trials.finish(
            session, finished.trial, finished.attempt, project=job.project, state=end.state,
            value=end.value, values=finished.values, epoch=finished.epoch,
            best_epoch=finished.best_epoch, reason=end.reason, detail=finished.detail,
        )  # fmt: skip
    events.record(
        session, job.id, f"trial.{end.state}", project=job.project, trial=finished.trial,
        attempt=finished.attempt, value=end.value, reason=end.reason, retry=end.is_retry,
    )  # fmt: skip


def _answer_trials(
    session: Session,
    service: Service,
    lease: LeaseRow,
    job: JobRow,
    report: Report,
    body_sha256: str,
) -> ReportAnswer:
    given = leases.given_trials(session, lease.id, project=job.project)
    is_draining = workers.is_draining(session, lease.worker_id, project=job.project)
    held = given.held
    works = not is_draining and _may_refill(lease, job, report, n_held=len(held))
    added: list[TrialRow] = []
    if works and report.free_slots and lease.step is not None:
        added = trials.claim(
            session, lease.id, lease.worker_id, job.id, lease.step, project=job.project,
            limit=min(report.free_slots, lease.slots),
        )  # fmt: skip
    record_claims(session, job, lease.id, [(row.id, row.attempt) for row in added])
    goes_on = bool(added) or (works and bool(held) and _has_more(session, job, lease))
    news = _News(given, tuple(added), is_draining)
    return _answer(session, service, lease, report, body_sha256, news, end=not goes_on)


def _may_refill(lease: LeaseRow, job: JobRow, report: Report, *, n_held: int) -> bool:
    """Whether trials may be added to a lease.

    One that was given for a trial alone has fewer slots in the worker than here: it ends with
    that trial, and the worker asks for a whole pack again.
    """
    was_alone = n_held == 0 and report.free_slots < lease.slots
    return (
        lease.is_open
        and not report.done
        and not was_alone
        and job.state in WORKING
        and job.phase == ("search" if lease.step == "search" else "evidence")
    )


def _has_more(session: Session, job: JobRow, lease: LeaseRow) -> bool:
    """Whether trials of this step may still come: waiting ones, or ones not issued yet."""
    assert lease.step is not None  # of a lease to train
    if trials.has_waiting(session, job.id, lease.step, project=job.project):
        return True
    if lease.step != "search":
        return False
    rows = arms.list_of(session, job.id, project=job.project)
    return any(row.searched and row.issued < row.target for row in rows)


def _answer(
    session: Session,
    service: Service,
    lease: LeaseRow,
    report: Report,
    body_sha256: str,
    news: "_News",
    *,
    end: bool,
) -> ReportAnswer:
    project, added = lease.project, {row.id for row in news.added}
    workers.touch(session, lease.worker_id, project=project)
    answer = ReportAnswer(
        sequence=report.sequence,
        expires_in=service.lease_s,
        stop=tuple(t.id for t in news.given.held if t.stop_requested and t.state == "running"),
        cancel=tuple(t.id for t in news.given.held if t.state == "cancelled"),
        lost=tuple(id for id in news.given.lost if id not in added),
        add=tuple(assignment(row) for row in news.added),
        drain=news.is_draining,
        end=end,
    )
    renew_s = service.lease_s if lease.is_open and not report.done else None
    leases.store_answer(
        session, lease.id, report.sequence, body_sha256, answer, project=project, renew_s=renew_s
    )
    return answer
