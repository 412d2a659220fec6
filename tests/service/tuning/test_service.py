"""A service that is thrown away goes on from its tables, as if nothing had happened."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.factories import (
    ToyWorker,
    advance_all,
    job_row,
    lose,
    make_service,
    run_until,
    run_until_done,
    search_lease,
    submit,
    trial_rows,
    violations,
)

from dropt.spec.protocol import Report
from dropt.tuning.service import Service

JOB: dict[str, Any] = {"budget": {"trials": 14}, "training": {"epochs": 4}}


def result(service: Service, job_id: str) -> list[Any]:
    """Everything that a job has found, without ids and times."""
    job = job_row(service, job_id)
    assert job.verdict is not None
    verdict = job.verdict
    rows = [
        (row.arm, row.phase, row.number, row.state, row.seed, row.params, row.sites, row.value)
        for row in trial_rows(service, job_id)
    ]
    looks = [(look.seeds, look.effect, look.interval) for look in verdict.looks]
    return [verdict.verdict, verdict.effect, verdict.interval, looks, job.min_effect, *rows]


@pytest.fixture
def uninterrupted(service: Service) -> list[Any]:
    worker = ToyWorker(service, slots=6)
    job_id = submit(service, **JOB)
    run_until_done(service, worker)
    return result(service, job_id)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 7])
def test_service_thrown_away_between_reports_finds_the_same(
    service: Service, uninterrupted: list[Any], tmp_path: Path, every: int
) -> None:
    reports = 0

    def restart(report: Report) -> None:
        nonlocal reports
        reports += 1
        if reports % every == 0:
            worker.service = make_service(service.database, tmp_path)

    worker = ToyWorker(service, slots=6, on_report=restart)
    job_id = submit(service, **JOB)
    for _ in range(200):
        advance_all(worker.service)
        if not worker.work_once() and job_row(service, job_id).is_done:
            break
    assert result(service, job_id) == uninterrupted
    assert violations(service, job_id) == []


@pytest.mark.parametrize("phase", ["search", "evidence"])
def test_service_and_worker_thrown_away_in_mid_phase_still_give_the_verdict(
    service: Service, tmp_path: Path, phase: str
) -> None:
    worker = ToyWorker(service, slots=4)
    job_id = submit(service)
    run_until(service, worker, phase, job_id=job_id)
    advance_all(service)
    lease = worker.lease()
    assert lease is not None
    epoch = [worker.measurement(lease, trial, 1) for trial in lease.trials]
    worker.send(lease, 1, measurements=epoch)
    lose(service, worker)
    again = make_service(service.database, tmp_path)
    run_until_done(again, ToyWorker(again, name="another", slots=4))
    job = job_row(again, job_id)
    assert (job.state, job.verdict_word) == ("succeeded", "helps")
    assert {row.attempt for row in trial_rows(again, job_id)} == {1, 2}
    assert violations(again, job_id) == []


def test_evidence_of_the_same_winners_is_the_same_whoever_trains_it(
    service: Service, uninterrupted: list[Any]
) -> None:
    """The values of seeds do not depend on the worker, the lease or the pack."""
    worker = ToyWorker(service, slots=6)
    job_id = submit(service, **JOB)
    run_until(service, worker, "evidence", job_id=job_id)
    single = ToyWorker(service, name="single", slots=1)
    run_until_done(service, single)
    assert result(service, job_id) == uninterrupted


def test_samplers_are_built_once_until_they_are_forgotten(service: Service) -> None:
    _, lease = search_lease(service)
    job = job_row(service, lease.job)
    memory = service.memory(job, "with")
    assert service.memory(job, "with") is memory
    assert service.memory(job, "without") is not memory
    service.forget(job.id)
    assert service.memory(job, "with") is not memory


def test_known_trials_carry_their_values_at_rungs(service: Service) -> None:
    worker, lease = search_lease(service, slots=4, training={"epochs": 9})
    for epoch in (1, 2, 3):
        measured = [worker.measurement(lease, trial, epoch) for trial in lease.trials]
        worker.send(lease, epoch, measurements=measured)
    job = job_row(service, lease.job)
    known = {one.trial: one for one in service.known(job, trial_rows(service, job.id))}
    for trial in lease.trials:
        found = next(one for id, one in known.items() if id == trial.id)
        assert found.rungs == {3: pytest.approx(worker.loss(trial, 3))}


def test_lock_of_a_job_is_one(service: Service) -> None:
    locks: Iterator[object] = (service.job_lock(job_row_id) for job_row_id in ids(service))
    assert len({id(lock) for lock in locks}) == 1


def ids(service: Service) -> Iterator[Any]:
    ToyWorker(service)
    job_id = submit(service)
    yield job_row(service, job_id).id
    yield job_row(service, job_id).id
