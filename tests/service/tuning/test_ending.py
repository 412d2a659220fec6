from tests.factories import (
    PROJECT,
    arm_rows,
    job_row,
    search_lease,
    trial_rows,
    violations,
)

from dropt.jobs import verbs
from dropt.storage import events
from dropt.tuning.ending import fail, finish
from dropt.tuning.service import Service


def test_end_cancels_what_is_open_and_closes_the_budgets(service_on_either: Service) -> None:
    service = service_on_either
    worker, lease = search_lease(service, slots=4)
    worker.send(lease, 1, finished=[worker.finished(lease, lease.trials[0], 3)])
    fail(service, job_row(service, lease.job), "error", "it broke")
    job = job_row(service, lease.job)
    assert (job.state, job.phase, job.ended_by, job.reason) == (
        "failed", None, "failure", "it broke",
    )  # fmt: skip
    assert job.finished_at is not None
    rows = trial_rows(service, lease.job)
    assert sorted({row.state for row in rows}) == ["cancelled", "completed"]
    assert all(row.issued == row.target for row in arm_rows(service, lease.job).values())
    assert violations(service, lease.job) == []


def test_job_ends_once(service: Service) -> None:
    _, lease = search_lease(service)
    job = job_row(service, lease.job)
    fail(service, job, "error", "first")
    revision = job_row(service, lease.job).revision
    fail(service, job, "error", "second")
    finish(service, job, None)
    ended = job_row(service, lease.job)
    assert (ended.state, ended.reason, ended.revision) == ("failed", "first", revision)
    with service.database.reading() as session:
        told = events.list_after(
            session, job.id, project=PROJECT, limit=99, types=["job.finished"]
        )
    assert [event.data["state"] for event in told] == ["failed"]


def test_job_that_is_being_cancelled_ends_as_cancelled(service: Service) -> None:
    """The verdict or the failure of a step that was under way comes too late."""
    _, lease = search_lease(service)
    job = job_row(service, lease.job)
    verbs.cancel(service, job.id, project=PROJECT, reason="enough")
    fail(service, job, "error", "too late")
    finish(service, job, None)
    assert job_row(service, job.id).state == "cancelling"
    finish(service, job_row(service, job.id), None, state="cancelled", ended_by="cancelled")
    assert (job_row(service, job.id).state, job_row(service, job.id).reason) == (
        "cancelled", "enough",
    )  # fmt: skip


def test_job_that_is_not_cancelled_does_not_end_so(service: Service) -> None:
    _, lease = search_lease(service)
    finish(service, job_row(service, lease.job), None, state="cancelled", ended_by="cancelled")
    assert job_row(service, lease.job).state == "running"


def test_samplers_of_a_job_are_forgotten_with_its_end(service: Service) -> None:
    _, lease = search_lease(service)
    job = job_row(service, lease.job)
    memory = service.memory(job, "with")
    finish(service, job, None)
    assert service.memory(job, "with") is not memory
