import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import func, select, update
from tests.factories import (
    PROJECT,
    ToyWorker,
    advance_all,
    job_row,
    lose,
    refused,
    run_until,
    run_until_done,
    search_lease,
    submit,
    take,
    trial_rows,
    violations,
)

from dropt.errors import InvalidRequest, LeaseLost, NotFound, SequenceMismatch
from dropt.jobs import verbs
from dropt.spec.protocol import (
    Finished,
    InspectionFailure,
    InspectionReport,
    Lease,
    Reason,
    Report,
    TrialAssignment,
)
from dropt.storage import leases, measurements, tables, workers
from dropt.tuning import scheduler
from dropt.tuning.reports import End, end_of
from dropt.tuning.service import Service

NO_PRUNING = {"pruner": {"name": "none"}}


def stored(service: Service) -> tuple[int, ...]:
    """How much is there of everything that a report can write."""
    with service.database.reading() as session:
        return tuple(
            session.scalars(select(func.count()).select_from(table)).one()
            for table in (tables.measurement, tables.event, tables.rung, tables.trial_artifact)
        )


def epoch_of(worker: ToyWorker, lease: Lease, epoch: int, *trials: TrialAssignment) -> Any:
    return [worker.measurement(lease, trial, epoch) for trial in trials or lease.trials]


# ---- what an end means


@pytest.mark.parametrize(
    ("parts", "failures", "end"),
    [
        ({"outcome": "completed"}, 0, End("completed", value=0.25)),
        ({"outcome": "pruned"}, 0, End("pruned", value=0.25)),
        ({"outcome": "pruned", "values": {}}, 0, End("pruned")),
        ({"outcome": "completed", "values": {}}, 0, End("failed", reason="diverged")),
        (
            {"outcome": "completed", "values": {"validation": {"nll": None}}},
            0,
            End("failed", reason="diverged"),
        ),
        ({"outcome": "failed", "reason": "diverged"}, 0, End("failed", reason="diverged")),
        ({"outcome": "failed", "reason": "data"}, 0, End("failed", reason="data")),
        ({"outcome": "failed", "reason": "error"}, 0, End("failed", None, "error", True)),
        ({"outcome": "failed", "reason": "error"}, 1, End("failed", None, "error", True)),
        ({"outcome": "failed", "reason": "error"}, 2, End("failed", None, "error", False)),
        ({"outcome": "failed"}, 0, End("failed", None, "error", True)),
        (
            {"outcome": "failed", "reason": "out_of_memory"},
            1,
            End("failed", None, "out_of_memory", True),
        ),
    ],
)  # fmt: skip
def test_end_decides_what_follows(
    service: Service, parts: dict[str, Any], failures: int, end: End
) -> None:
    _, lease = search_lease(service, slots=1)
    row = trial_rows(service, lease.job, states=["running"])[0]
    with service.database.writing() as session:
        session.execute(
            update(tables.trial).where(tables.trial.c.id == row.id).values(failures=failures)
        )
    row = trial_rows(service, lease.job, states=["running"])[0]
    values = {"validation": {"nll": 0.25, "accuracy": 0.9}}
    told = Finished.model_validate(
        {"trial": row.id, "attempt": 1, "epoch": 3, "values": values} | parts
    )
    assert end_of(told, row, job_row(service, lease.job)) == end


def test_value_that_is_not_finite_never_completes_a_trial(service: Service) -> None:
    def loss(trial: TrialAssignment, epoch: int) -> float:
        return math.nan if trial.number == 1 and trial.arm == "with" else 0.5

    worker = ToyWorker(service, loss=loss)
    job_id = submit(service, search=NO_PRUNING)
    run_until(service, worker, "evidence", job_id=job_id)
    ended = trial_rows(service, job_id, phase="search")
    (diverged,) = [row for row in ended if row.state != "completed"]
    assert (diverged.state, diverged.reason, diverged.attempt) == ("failed", "diverged", 1)
    assert all(row.value == 0.5 for row in ended if row is not diverged)


# ---- retries


def test_trial_that_fails_thrice_is_failed_and_its_last_attempt_was_alone(
    service: Service,
) -> None:
    def failing(trial: TrialAssignment, epoch: int) -> Reason | None:
        return "error" if (trial.arm, trial.number, epoch) == ("with", 1, 2) else None

    worker = ToyWorker(service, slots=4, failing=failing)
    job_id = submit(service, search=NO_PRUNING, evidence=False)
    run_until_done(service, worker)
    (row,) = [row for row in trial_rows(service, job_id) if row.state == "failed"]
    assert (row.arm, row.number, row.attempt, row.failures) == ("with", 1, 3, 2)
    assert (row.reason, row.detail) == ("error", "as the test wants it")
    given = [lease for lease in worker.leases if any(t.id == row.id for t in lease.trials)]
    last = given[-1]
    assert [(t.id, t.attempt) for t in last.trials] == [(row.id, 3)]
    assert last.slots == 1
    assert job_row(service, job_id).state == "succeeded"
    assert violations(service, job_id) == []


def test_lease_of_a_trial_alone_is_not_refilled(service: Service) -> None:
    def failing(trial: TrialAssignment, epoch: int) -> Reason | None:
        is_chosen = (trial.arm, trial.number) == ("with", 0)
        return "error" if is_chosen and trial.attempt < 3 else None

    worker = ToyWorker(service, slots=4, failing=failing)
    job_id = submit(service, search=NO_PRUNING)
    run_until(service, worker, "evidence", job_id=job_id)
    alone = [lease for lease in worker.leases if lease.kind == "train" and lease.slots == 1]
    assert [[(t.arm, t.number) for t in lease.trials] for lease in alone] == [[("with", 0)]]
    assert all(row.state == "completed" for row in trial_rows(service, job_id, phase="search"))


def test_trial_alone_gets_no_company_though_others_wait(service: Service) -> None:
    worker, lease = search_lease(service, slots=4, budget={"trials": 2})
    one, *others = lease.trials
    with service.database.writing() as session:
        session.execute(update(tables.trial).where(tables.trial.c.id == one.id).values(failures=1))
    worker.send(lease, 1, finished=[worker.failed(one, 1, "error")])
    other = ToyWorker(service, name="other")
    alone = other.lease(slots=4)
    assert alone is not None
    assert [trial.id for trial in alone.trials] == [one.id]
    scheduler.give_back(service, lease.id, project=PROJECT)
    ended = [other.finished(alone, alone.trials[0], 3)]
    answer = other.send(alone, 1, finished=ended, free_slots=1)
    assert (answer.add, answer.end) == ((), True)
    waiting = trial_rows(service, lease.job, states=["waiting"])
    assert {row.id for row in waiting} == {trial.id for trial in others}


def test_diverged_trial_is_not_tried_again_and_its_pack_mates_go_on(service: Service) -> None:
    worker, lease = search_lease(service)
    bad = lease.trials[0]
    answer = worker.send(
        lease, 1, finished=[worker.failed(bad, 1, "diverged")],
        measurements=epoch_of(worker, lease, 1, *lease.trials[1:]),
    )  # fmt: skip
    assert answer.lost == answer.cancel == ()
    rows = {str(row.id): row for row in trial_rows(service, lease.job)}
    assert (rows[bad.id].state, rows[bad.id].reason) == ("failed", "diverged")
    assert all(rows[mate.id].state == "running" for mate in lease.trials[1:])


def test_trial_out_of_memory_waits_again(service: Service) -> None:
    worker, lease = search_lease(service)
    one = lease.trials[0]
    worker.send(lease, 1, finished=[worker.failed(one, 0, "out_of_memory")])
    (row,) = trial_rows(service, lease.job, states=["waiting"])
    assert (row.id, row.failures, row.reason) == (one.id, 1, "out_of_memory")


# ---- in order, once


def test_repeated_report_gets_the_same_answer_with_what_was_added(
    service_on_either: Service,
) -> None:
    service = service_on_either
    worker, lease = search_lease(service, slots=2)
    ended = worker.finished(lease, lease.trials[0], 3)
    parts: dict[str, Any] = {
        "finished": [ended], "measurements": epoch_of(worker, lease, 1, lease.trials[1]),
        "free_slots": 1,
    }  # fmt: skip
    first = worker.send(lease, 1, **parts)
    assert len(first.add) == 1
    before = stored(service)
    assert worker.send(lease, 1, **parts) == first
    assert stored(service) == before
    assert len(trial_rows(service, lease.job, states=["running"])) == 2


def test_repeated_report_renews_the_lease(service: Service) -> None:
    worker, lease = search_lease(service)
    worker.send(lease, 1, measurements=epoch_of(worker, lease, 1))
    lose(service, worker)
    worker.send(lease, 1, measurements=epoch_of(worker, lease, 1))
    with service.database.reading() as session:
        assert leases.get(session, lease.id, project=PROJECT).expires_in_s > 20


def test_report_sent_again_while_it_is_stored_gets_the_same_answer(
    service_on_either: Service,
) -> None:
    service, n = service_on_either, 6
    worker, lease = search_lease(service)
    together = Barrier(n)
    report = Report.model_validate(
        {"worker": worker.id, "sequence": 1, "measurements": epoch_of(worker, lease, 1)}
    )

    def send() -> Any:
        together.wait()
        return take(service, lease.id, report)

    with ThreadPoolExecutor(n) as pool:
        answers = [future.result() for future in [pool.submit(send) for _ in range(n)]]
    assert all(answer == answers[0] for answer in answers)
    assert stored(service)[0] == len(lease.trials)


@pytest.mark.parametrize("sequence", [2, 7])
def test_report_out_of_sequence_stores_nothing(service: Service, sequence: int) -> None:
    worker, lease = search_lease(service)
    before = stored(service)
    with pytest.raises(SequenceMismatch) as caught:
        worker.send(lease, sequence, measurements=epoch_of(worker, lease, 1))
    assert caught.value.expected == 1
    assert stored(service) == before


def test_old_sequence_with_another_body_is_refused(service: Service) -> None:
    worker, lease = search_lease(service)
    worker.send(lease, 1, measurements=epoch_of(worker, lease, 1))
    with pytest.raises(SequenceMismatch) as caught:
        worker.send(lease, 1, measurements=epoch_of(worker, lease, 2))
    assert caught.value.expected == 2


def test_report_of_another_worker_is_refused(service: Service) -> None:
    worker, lease = search_lease(service)
    worker.id = ToyWorker(service, name="other").id
    error = refused(lambda: worker.send(lease, 1, measurements=epoch_of(worker, lease, 1)))
    assert [field.code for field in error.errors] == ["not-the-holder"]


def test_report_on_an_unknown_lease_is_not_found(service: Service) -> None:
    worker, lease = search_lease(service)
    with pytest.raises(NotFound):
        worker.send(lease.model_copy(update={"id": "lea_0"}), 1)


def test_epoch_is_measured_once_per_attempt(service: Service) -> None:
    worker, lease = search_lease(service)
    worker.send(lease, 1, measurements=epoch_of(worker, lease, 1))
    before = stored(service)
    error = refused(lambda: worker.send(lease, 2, measurements=epoch_of(worker, lease, 1)))
    assert [field.code for field in error.errors] == ["repeated-epoch"]
    assert stored(service) == before


# ---- the fence


def test_worker_that_lost_its_trials_writes_nothing(service_on_either: Service) -> None:
    service = service_on_either
    worker, lease = search_lease(service)
    lose(service, worker)
    other = ToyWorker(service, name="other", slots=2)
    taken = other.lease()
    assert taken is not None
    lost = {trial.id for trial in taken.trials}
    assert [trial.attempt for trial in taken.trials] == [2, 2]
    before = stored(service)
    ended = [worker.finished(lease, trial, 3) for trial in lease.trials]
    with pytest.raises(LeaseLost) as caught:
        worker.send(lease, 1, measurements=epoch_of(worker, lease, 3), finished=ended)
    assert set(caught.value.lost) == lost
    assert caught.value.lease_held
    assert stored(service) == before
    assert all(row.value is None for row in trial_rows(service, lease.job))
    kept = [trial for trial in lease.trials if trial.id not in lost]
    answer = worker.send(lease, 1, measurements=epoch_of(worker, lease, 1, *kept))
    assert set(answer.lost) == lost


def test_late_report_is_taken_when_nobody_has_claimed_the_trials(service: Service) -> None:
    worker, lease = search_lease(service)
    lose(service, worker)
    answer = worker.send(lease, 1, measurements=epoch_of(worker, lease, 1))
    assert answer.lost == ()
    assert ToyWorker(service, name="other", slots=4).lease() is not None
    rows = {str(row.id): row for row in trial_rows(service, lease.job)}
    assert all(rows[trial.id].attempt == 1 for trial in lease.trials)


def test_wrong_attempt_alone_is_lost(service: Service) -> None:
    worker, lease = search_lease(service)
    future = lease.trials[0].model_copy(update={"attempt": 2})
    with pytest.raises(LeaseLost):
        worker.send(lease, 1, measurements=epoch_of(worker, lease, 1, future))


def test_trial_ends_once(service: Service) -> None:
    worker, lease = search_lease(service)
    ended = [worker.finished(lease, lease.trials[0], 3)]
    worker.send(lease, 1, finished=ended)
    with pytest.raises(LeaseLost):
        worker.send(lease, 2, finished=ended)
    assert violations(service, lease.job) == []


def test_refused_report_issues_no_trial(service_on_either: Service) -> None:
    """New trials are stored with the ends that free their slots, or not at all."""
    service = service_on_either
    worker, lease = search_lease(service, slots=2, budget={"trials": 20})
    before = [row.id for row in trial_rows(service, lease.job)]
    ended = [worker.finished(lease, trial, 3) for trial in lease.trials]
    old = ended[0].model_copy(update={"attempt": 7})
    with pytest.raises(LeaseLost):
        worker.send(lease, 1, finished=[old, ended[1]], free_slots=2)
    assert [row.id for row in trial_rows(service, lease.job)] == before
    answer = worker.send(lease, 1, finished=ended, free_slots=2)
    repeated = worker.send(lease, 1, finished=ended, free_slots=2)
    assert answer.add == repeated.add
    assert len(answer.add) == 2
    assert len(trial_rows(service, lease.job)) == len(before) + 2
    assert violations(service, lease.job) == []


def test_closed_lease_without_trials_is_lost(service: Service) -> None:
    worker, lease = search_lease(service)
    scheduler.give_back(service, lease.id, project=PROJECT)
    with pytest.raises(LeaseLost) as caught:
        worker.send(lease, 1)
    assert not caught.value.lease_held


def test_report_that_is_refused_leaves_the_samplers_as_the_tables_are(service: Service) -> None:
    worker, lease = search_lease(service)
    job = job_row(service, lease.job)
    told = service.memory(job, "with")
    with pytest.raises(SequenceMismatch):
        worker.send(lease, 5, finished=[worker.finished(lease, lease.trials[0], 3)])
    assert service.memory(job, "with") is not told


def test_report_shows_that_the_worker_is_there(service: Service) -> None:
    worker, lease = search_lease(service)
    with service.database.writing() as session:
        long_ago = job_row(service, lease.job).created_at.replace(year=2020)
        session.execute(update(tables.worker).values(last_seen_at=long_ago))
    worker.send(lease, 1, measurements=epoch_of(worker, lease, 1))
    with service.database.reading() as session:
        assert workers.get(session, worker.id, project=PROJECT).state == "live"


# ---- cancelled, stopped, ended


def test_cancel_while_running_refuses_the_report_under_way(service_on_either: Service) -> None:
    service = service_on_either
    worker, lease = search_lease(service)
    verbs.cancel(service, lease.job, project=PROJECT, reason="enough")
    before = stored(service)
    ended = [worker.finished(lease, lease.trials[0], 3)]
    with pytest.raises(LeaseLost):
        worker.send(lease, 1, finished=ended)
    assert stored(service) == before
    answer = worker.send(lease, 1)
    assert set(answer.cancel) == {trial.id for trial in lease.trials}
    assert answer.end
    advance_all(service)
    job = job_row(service, lease.job)
    assert (job.state, job.ended_by, job.reason) == ("cancelled", "cancelled", "enough")
    assert all(row.state == "cancelled" for row in trial_rows(service, lease.job))
    assert violations(service, lease.job) == []


def test_rung_is_decided_once_and_the_stop_is_told_until_it_is_obeyed(service: Service) -> None:
    def loss(trial: TrialAssignment, epoch: int) -> float:
        return 1.0 + trial.number

    search = {"pruner": {"name": "successive_halving", "rungs": [0.34], "factor": 2}}
    worker = ToyWorker(service, slots=8, loss=loss)
    worker, lease = search_lease(
        service, worker=worker, slots=8, search=search, training={"epochs": 9}
    )
    assert lease.rungs == (3,)
    worst = max(lease.trials, key=lambda trial: trial.number)
    told = []
    for epoch in (1, 2, 3, 4):
        told.append(worker.send(lease, epoch, measurements=epoch_of(worker, lease, epoch)).stop)
    assert told[:2] == [(), ()]
    assert worst.id in told[2]
    assert told[3] == told[2]
    pruned = worker.finished(lease, worst, 4, pruned=True)
    assert worst.id not in worker.send(lease, 5, finished=[pruned]).stop
    row = next(row for row in trial_rows(service, lease.job) if row.id == worst.id)
    assert (row.state, row.epoch, row.value) == ("pruned", 4, 1.0 + worst.number)
    assert violations(service, lease.job) == []


def test_second_attempt_is_not_judged_again(service: Service) -> None:
    values = iter([1.0, 9.0])

    def loss(trial: TrialAssignment, epoch: int) -> float:
        return next(values) if trial.number == 0 and trial.arm == "with" else 5.0

    worker = ToyWorker(service, slots=8, loss=loss)
    search = {"pruner": {"rungs": [0.34], "factor": 2}}
    worker, lease = search_lease(service, worker=worker, slots=8, search=search)
    chosen = next(t for t in lease.trials if (t.arm, t.number) == ("with", 0))
    worker.send(lease, 1, measurements=epoch_of(worker, lease, 1))
    lose(service, worker)
    again = worker.lease(slots=8)
    assert again is not None
    chosen = next(t for t in again.trials if t.id == chosen.id)
    answer = worker.send(again, 1, measurements=epoch_of(worker, again, 1, chosen))
    assert chosen.id not in answer.stop  # 9.0 is the worst, but 1.0 was judged
    with service.database.reading() as session:
        scores = dict(measurements.rung_values(session, lease.job, "with", 1, project=PROJECT))
    first = trial_rows(service, lease.job, arm="with")[0]
    assert (first.id, scores[first.id]) == (chosen.id, 1.0)


def test_best_at_a_rung_goes_on_whatever_the_direction(service: Service) -> None:
    """Accuracy is maximised: the trials with the smallest loss have the largest accuracy."""

    def loss(trial: TrialAssignment, epoch: int) -> float:
        return 0.1 * trial.number

    worker = ToyWorker(service, slots=8, loss=loss)
    search = {"pruner": {"rungs": [0.34], "factor": 2}}
    worker, lease = search_lease(
        service, worker=worker, slots=8, search=search, objective={"metric": "accuracy"}
    )
    stop = worker.send(lease, 1, measurements=epoch_of(worker, lease, 1)).stop
    numbers = {trial.number for trial in lease.trials if trial.id in stop}
    assert 0 not in numbers
    assert max(trial.number for trial in lease.trials) in numbers


def test_more_is_never_added_than_is_free(service: Service) -> None:
    worker, lease = search_lease(service, slots=4)
    ended = [worker.finished(lease, trial, 3) for trial in lease.trials[:3]]
    answer = worker.send(lease, 1, finished=ended, free_slots=2)
    assert len(answer.add) == 2
    assert not answer.end


def test_empty_pack_that_gets_nothing_ends(service: Service) -> None:
    """What waits may be a trial that must be alone: an empty pack would wait for it for ever."""
    worker, lease = search_lease(service, slots=4, budget={"trials": 2})
    for sequence, trial in enumerate(lease.trials[1:], 1):
        worker.send(lease, sequence, finished=[worker.finished(lease, trial, 3)])
    with service.database.writing() as session:
        session.execute(update(tables.trial).values(failures=1))
    failed = [worker.failed(lease.trials[0], 1, "error")]
    answer = worker.send(lease, len(lease.trials), finished=failed, free_slots=4)
    assert answer.add == ()
    assert answer.end
    worker.send(lease, len(lease.trials) + 1, done=True)
    alone = worker.lease(slots=4)
    assert alone is not None
    assert [trial.id for trial in alone.trials] == [lease.trials[0].id]


def test_report_that_is_done_gives_back_what_it_holds(service: Service) -> None:
    worker, lease = search_lease(service)
    answer = worker.send(lease, 1, measurements=epoch_of(worker, lease, 1), done=True)
    assert answer.end
    rows = trial_rows(service, lease.job, states=["waiting"])
    assert {row.id for row in rows} >= {trial.id for trial in lease.trials}
    assert all((row.attempt, row.losses, row.failures) == (1, 0, 0) for row in rows[:1])
    assert violations(service, lease.job) == []


def test_pack_is_refilled_though_its_ends_and_others_fill_the_open_trials(
    service: Service,
) -> None:
    """Two workers with 16 slots hold all trials that may be open: an end makes room at once."""
    first = ToyWorker(service, name="a", slots=16)
    job_id = submit(service, budget={"trials": 40}, resources={"slots": 16})
    run_until(service, first, "search", job_id=job_id)
    lease = first.lease()
    assert lease is not None
    other = ToyWorker(service, name="b", slots=16).lease()
    assert other is not None
    assert len(trial_rows(service, job_id, states=["running"])) == 32
    ended = [first.finished(lease, trial, 3) for trial in lease.trials]
    assert len(first.send(lease, 1, finished=ended, free_slots=16).add) == 16


# ---- scores and inspections


def evidence_lease(service: Service) -> tuple[ToyWorker, Lease]:
    """A lease of the comparison."""
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "evidence", job_id=job_id)
    for _ in range(20):
        advance_all(service)
        lease = worker.lease()
        if lease is not None and lease.step == "compare":
            return worker, lease
        if lease is not None:
            worker.train(lease)
    raise AssertionError("no comparison")


def test_scores_that_are_not_here_are_asked_for_and_the_report_is_sent_again(
    service: Service,
) -> None:
    worker, lease = evidence_lease(service)
    ended = worker.finished(lease, lease.trials[0], 3)
    missing = ended.model_copy(update={"scores": {"test": "0" * 64}})
    before = stored(service)
    error = refused(lambda: worker.send(lease, 1, finished=[missing]))
    assert [field.code for field in error.errors] == ["unknown-artifact"]
    assert stored(service) == before
    worker.send(lease, 1, finished=[ended])
    assert stored(service)[3] == before[3] + 1


def test_scores_that_cannot_be_read_are_refused(service: Service) -> None:
    worker, lease = evidence_lease(service)
    digest = worker.put(b"no tensors")
    ended = worker.finished(lease, lease.trials[0], 3)
    ended = ended.model_copy(update={"scores": {"test": digest}})
    error = refused(lambda: worker.send(lease, 1, finished=[ended]))
    assert isinstance(error, InvalidRequest)
    assert [field.code for field in error.errors] == ["scores-unreadable"]


def inspect_lease(service: Service) -> tuple[ToyWorker, Lease]:
    worker = ToyWorker(service)
    submit(service)
    advance_all(service)
    lease = worker.lease()
    assert lease is not None
    assert lease.kind == "inspect"
    return worker, lease


def test_inspection_that_fails_fails_the_job(service: Service) -> None:
    worker, lease = inspect_lease(service)
    failure = InspectionFailure(reason="error", detail="no such layer")
    worker.send(lease, 1, inspection=InspectionReport(failure=failure), done=True)
    advance_all(service)
    job = job_row(service, lease.job)
    assert (job.state, job.reason) == ("failed", "no such layer")
    assert job.failure is not None
    assert job.failure.reason == "error"


def test_inspection_that_another_worker_has_is_lost(service: Service) -> None:
    worker, lease = inspect_lease(service)
    lose(service, worker)
    other = ToyWorker(service, name="other")
    again = other.lease()
    assert again is not None
    with pytest.raises(LeaseLost):
        worker.inspect(lease)
    other.inspect(again)
    advance_all(service)
    assert job_row(service, lease.job).phase == "search"


def test_inspection_that_is_given_back_waits_again(service: Service) -> None:
    worker, lease = inspect_lease(service)
    worker.send(lease, 1, done=True)
    again = worker.lease()
    assert again is not None
    assert again.kind == "inspect"
