from typing import Any

from tests.factories import (
    PROJECT,
    ToyWorker,
    job_row,
    lose,
    registration,
    search_lease,
    submit,
    violations,
)

from dropt.spec.results import EventRead
from dropt.storage import events
from dropt.tuning import scheduler
from dropt.tuning.service import Service


def told(service: Service, job_id: str, type: str) -> list[EventRead]:
    with service.database.reading() as session:
        return events.list_after(session, job_id, project=PROJECT, limit=9_999, types=[type])


def test_lost_lease_is_told_once_with_its_worker(service_on_either: Service) -> None:
    service = service_on_either
    worker, lease = search_lease(service, slots=3)
    assert told(service, lease.job, "lease.lost") == []
    lose(service, worker)
    other = ToyWorker(service, name="other")
    taken = other.lease(slots=3)
    assert taken is not None
    data: list[dict[str, Any]] = [one.data for one in told(service, lease.job, "lease.lost")]
    assert data == [{"lease": lease.id, "worker": worker.id, "trials": 3}]
    other.train(taken)
    assert len(told(service, lease.job, "lease.lost")) == 1


def test_lease_that_is_given_back_is_not_lost(service: Service) -> None:
    worker, lease = search_lease(service)
    scheduler.give_back(service, lease.id, project=PROJECT)
    assert worker.lease() is not None
    assert told(service, lease.job, "lease.lost") == []


def test_better_trial_is_told_and_a_worse_one_is_not(service: Service) -> None:
    worker, lease = search_lease(service, slots=8, search={"pruner": {"name": "none"}})
    arm = lease.trials[0].arm
    mine = [trial for trial in lease.trials if trial.arm == arm][:3]
    values = [worker.loss(trial, 3) for trial in mine]
    best: list[tuple[str, float]] = []
    for sequence, (trial, value) in enumerate(zip(mine, values, strict=True), start=1):
        worker.send(lease, sequence, finished=[worker.finished(lease, trial, 3)])
        if not best or value < best[-1][1]:
            best.append((trial.id, value))
    found = told(service, lease.job, "best.updated")
    assert [(event.trial, event.data["value"]) for event in found] == best
    assert {event.data["arm"] for event in found} == {arm}
    assert violations(service, lease.job) == []


def test_warning_of_a_job_is_an_event(service: Service) -> None:
    scheduler.register(service, registration(n_test=150), project=PROJECT)
    job_id = submit(service)
    messages = [event.data["message"] for event in told(service, job_id, "warning")]
    assert messages == list(job_row(service, job_id).warnings)
    assert len(messages) == 1
