from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from tests.factories import (
    PROJECT,
    ToyWorker,
    advance_all,
    arm_rows,
    is_active,
    job_row,
    run_until,
    run_until_done,
    search_lease,
    submit,
    trial_rows,
    violations,
)

from dropt.spec.job import JobSpec
from dropt.spec.protocol import TrialAssignment
from dropt.storage import measurements, tables
from dropt.tuning.budget import (
    elapsed_s,
    is_search_over_time,
    is_time_left,
    n_reserved_trainings,
)
from dropt.tuning.service import Service

EPOCH_S = 0.01  # of the toy worker
QUICK_RESERVE = 2 * (3 + 2) * 2 + 8 * 3  # shortlist, then 8 seeds of three arms
LONG: dict[str, Any] = {"trials": 200}


def began(service: Service, job_id: str, *, seconds_ago: float) -> None:
    """Let the job have started so long ago."""
    job = job_row(service, job_id)
    assert job.started_at is not None
    earlier = job.started_at - timedelta(seconds=seconds_ago)
    with service.database.writing() as session:
        session.execute(
            update(tables.job).where(tables.job.c.id == job_id).values(started_at=earlier)
        )


def spent(service: Service, job_id: str) -> float:
    with service.database.reading() as session:
        used = measurements.consumed(session, job_id, project=PROJECT)
    return sum(one.device_seconds for one in used.values())


def over_time(service: Service, job_id: str) -> bool:
    job = job_row(service, job_id)
    with service.database.reading() as session:
        return is_search_over_time(session, job)


def time_left(service: Service, job_id: str) -> bool:
    job = job_row(service, job_id)
    with service.database.reading() as session:
        return is_time_left(session, job)


def test_device_seconds_end_the_search_and_leave_room_for_the_evidence(service: Service) -> None:
    budget = {**LONG, "device_seconds": 2.0}
    worker = ToyWorker(service, on_report=lambda report: advance_all(service))
    job_id = submit(service, budget=budget)
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert (job.state, job.verdict_word) == ("succeeded", "helps")
    for row in arm_rows(service, job_id).values():
        assert row.issued == row.target < 100
    n_epochs = {
        phase: sum(row.epoch for row in trial_rows(service, job_id, phase=phase))
        for phase in ("search", "shortlist", "compare")
    }
    reserve_s = QUICK_RESERVE * 3 * EPOCH_S
    searched_s = n_epochs["search"] * EPOCH_S
    assert 2.0 - reserve_s <= searched_s <= 2.0 - reserve_s + 16 * 2 * EPOCH_S  # and one epoch
    assert spent(service, job_id) <= 2.0 + 16 * EPOCH_S
    assert violations(service, job_id) == []


def test_seconds_end_the_search_and_what_runs_is_stopped(service: Service) -> None:
    worker, lease = search_lease(service, slots=4, budget={**LONG, "seconds": 3600})
    measured = [worker.measurement(lease, trial, 1) for trial in lease.trials]
    worker.send(lease, 1, measurements=measured)
    advance_all(service)
    assert not any(row.stop_requested for row in trial_rows(service, lease.job))
    began(service, lease.job, seconds_ago=3600)
    advance_all(service)
    rows = trial_rows(service, lease.job)
    assert all(row.stop_requested for row in rows if row.state == "running")
    assert not [row for row in rows if row.state == "waiting"]
    answer = worker.send(lease, 2)
    assert set(answer.stop) == {trial.id for trial in lease.trials}
    ended = [worker.finished(lease, trial, 2, pruned=True) for trial in lease.trials]
    answer = worker.send(lease, 3, finished=ended, free_slots=4)
    assert (answer.add, answer.end) == ((), True)
    run_until_done(service, worker)
    job = job_row(service, lease.job)
    assert job.verdict is not None
    assert (job.verdict.verdict, job.verdict.reason) == ("not_tested", "no_finished_trial")
    assert violations(service, lease.job) == []


def test_time_that_is_up_before_the_first_trial_ends_the_job(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, budget={**LONG, "seconds": 1e-6})
    run_until(service, worker, "search", job_id=job_id)
    advance_all(service)
    run_until_done(service, worker, most=30)
    assert trial_rows(service, job_id) == []
    assert job_row(service, job_id).verdict_word == "not_tested"


def test_time_that_is_up_with_a_lost_worker_ends_when_another_comes(service: Service) -> None:
    _, lease = search_lease(service, slots=2, budget={**LONG, "seconds": 3600})
    with service.database.writing() as session:
        session.execute(update(tables.lease).values(expires_at=0.0))
    began(service, lease.job, seconds_ago=3600)
    for _ in range(3):
        advance_all(service)
    assert is_active(service)
    run_until_done(service, ToyWorker(service, name="another"), most=50)
    assert job_row(service, lease.job).state == "succeeded"
    assert violations(service, lease.job) == []


def test_seconds_that_are_up_let_the_look_decide(service: Service) -> None:
    worker = ToyWorker(service, loss=undecided)
    job_id = submit(service, budget={"trials": 4, "seconds": 3600},
                    objective={"min_effect": 0.001})  # fmt: skip
    run_until(service, worker, "evidence", job_id=job_id)
    began(service, job_id, seconds_ago=3600)
    run_until_done(service, worker)
    verdict = job_row(service, job_id).verdict
    assert verdict is not None
    assert (verdict.verdict, verdict.provisional) == ("undecided", False)
    assert (verdict.seeds, len(verdict.looks)) == (5, 1)


def undecided(trial: TrialAssignment, epoch: int) -> float:
    spread = trial.seed % 1000 / 1000 - 0.5
    return 0.5 + 0.02 * (spread if trial.sites else -spread) + 0.1 / epoch


def test_without_a_limit_time_never_ends_anything(service: Service) -> None:
    _, lease = search_lease(service)
    began(service, lease.job, seconds_ago=1e7)
    assert not over_time(service, lease.job)
    assert time_left(service, lease.job)


@pytest.mark.parametrize(("seconds_ago", "is_over"), [(0.0, False), (5000.0, True)])
def test_seconds_count_from_the_start_of_the_job(
    service: Service, seconds_ago: float, is_over: bool
) -> None:
    _, lease = search_lease(service, budget={**LONG, "seconds": 3600})
    began(service, lease.job, seconds_ago=seconds_ago)
    assert over_time(service, lease.job) == is_over
    assert time_left(service, lease.job) != is_over
    with service.database.reading() as session:
        elapsed = elapsed_s(session, job_row(service, lease.job))
    assert seconds_ago <= elapsed < seconds_ago + 60


def test_reserve_is_told_from_the_pace_of_the_epochs(service: Service) -> None:
    """44 trainings of 3 epochs at 0.01 s, by one device that is busy all the time."""
    worker, lease = search_lease(service, slots=4, budget={**LONG, "device_seconds": 1.36})
    assert not over_time(service, lease.job)  # no epoch, no pace
    measured = [worker.measurement(lease, trial, 1) for trial in lease.trials]
    worker.send(lease, 1, measurements=measured[:3])
    assert not over_time(service, lease.job)  # 0.03 + 1.32
    worker.send(lease, 2, measurements=measured[3:])
    assert over_time(service, lease.job)  # 0.04 + 1.32


def test_reserved_trainings_are_those_of_the_effort(service: Service) -> None:
    ToyWorker(service)
    expected = {
        "quick": QUICK_RESERVE,
        "default": 42 + 4 * 8 + 12 * 3,  # race, three removals beside the whole, 12 seeds
        "thorough": 42 + 4 * 8 + 12 * 3,
    }
    for effort, n in expected.items():
        assert n_reserved_trainings(spec(service, evidence={"effort": effort}), 3) == n
    assert n_reserved_trainings(spec(service, evidence=False), 3) == 0


def test_simplification_of_one_group_reserves_nothing(service: Service) -> None:
    ToyWorker(service)
    default = spec(service, evidence={"effort": "default"})
    assert n_reserved_trainings(default, 1) == 42 + 12 * 3
    assert n_reserved_trainings(default, 100) == 42 + 7 * 8 + 12 * 3


def spec(service: Service, **fields: Any) -> JobSpec:
    return job_row(service, submit(service, **fields)).spec
