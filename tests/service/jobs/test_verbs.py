from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import update
from tests.factories import (
    PROJECT,
    ToyWorker,
    advance_all,
    job_body,
    job_row,
    refused,
    registration,
    run_until_done,
    search_lease,
    submit,
)

from dropt.errors import (
    IdempotencyKeyReused,
    InvalidRequest,
    JobAlreadyFinished,
    NotFound,
    QuotaExceeded,
)
from dropt.jobs import lists, verbs
from dropt.spec.results import JobRead
from dropt.storage import events, tables
from dropt.tuning import scheduler
from dropt.tuning.service import Idempotency, Quotas, Service

KEY = Idempotency("/v1/jobs", "mine", "a" * 64)


def count_jobs(service: Service) -> int:
    return len(lists.list_jobs(service, project=PROJECT, limit=500))


def test_submitted_job_waits_and_echoes_its_spec(service: Service) -> None:
    ToyWorker(service)
    job, is_replay = verbs.submit(service, job_body(labels={"team": "a"}), project=PROJECT)
    assert not is_replay
    assert (job.state, job.phase, job.done, job.revision) == ("queued", None, False, 1)
    assert (job.name, job.labels) == ("mlp on digits", {"team": "a"})
    assert job.reason == "Waiting for a worker that offers model 'mlp'."
    assert job.spec.training.epochs == 3
    assert job.links["self"] == f"/v1/jobs/{job.id}"
    with service.database.reading() as session:
        (told,) = events.list_after(session, job.id, project=PROJECT, limit=9)
    assert (told.type, told.data) == ("job.state", {"state": "queued"})


def test_job_that_names_nothing_known_is_not_stored(service: Service) -> None:
    ToyWorker(service)
    with pytest.raises(InvalidRequest):
        verbs.submit(service, job_body(model="cnn"), project=PROJECT)
    assert count_jobs(service) == 0


def test_same_key_makes_one_job(service_on_either: Service) -> None:
    service = service_on_either
    ToyWorker(service)
    first, _ = verbs.submit(service, job_body(), project=PROJECT, key=KEY)
    advance_all(service)
    again, is_replay = verbs.submit(service, job_body(), project=PROJECT, key=KEY)
    assert is_replay
    assert again == first  # the first answer, though the job has gone on
    assert count_jobs(service) == 1


def test_senders_of_one_key_at_once_make_one_job(service_on_either: Service) -> None:
    service, n = service_on_either, 6
    ToyWorker(service)
    together = Barrier(n)

    def send() -> JobRead:
        together.wait()
        return verbs.submit(service, job_body(), project=PROJECT, key=KEY)[0]

    with ThreadPoolExecutor(n) as pool:
        answers = [future.result() for future in [pool.submit(send) for _ in range(n)]]
    assert len({job.id for job in answers}) == 1
    assert count_jobs(service) == 1


def test_key_with_another_body_is_refused(service: Service) -> None:
    ToyWorker(service)
    verbs.submit(service, job_body(), project=PROJECT, key=KEY)
    other = Idempotency(KEY.path, KEY.key, "b" * 64)
    with pytest.raises(IdempotencyKeyReused):
        verbs.submit(service, job_body(), project=PROJECT, key=other)


def test_refused_body_leaves_its_key_free(service: Service) -> None:
    ToyWorker(service)
    error = refused(lambda: verbs.submit(service, job_body(model="cnn"), project=PROJECT, key=KEY))
    assert error.status == 422
    _, is_replay = verbs.submit(service, job_body(), project=PROJECT, key=KEY)
    assert not is_replay


def test_queue_has_an_end(service: Service) -> None:
    ToyWorker(service)
    service.quotas = Quotas(queued_jobs=2)
    submit(service)
    submit(service)
    with pytest.raises(QuotaExceeded) as caught:
        submit(service)
    assert caught.value.members == {"limit": 2}
    advance_all(service)  # both start
    submit(service)


@pytest.mark.parametrize(("n_test", "n_warnings"), [(240, 0), (200, 0), (199, 1)])
def test_small_test_split_is_warned_of(service: Service, n_test: int, n_warnings: int) -> None:
    scheduler.register(service, registration(n_test=n_test), project=PROJECT)
    job, _ = verbs.submit(service, job_body(), project=PROJECT)
    assert len(job.warnings) == n_warnings
    assert all(text.startswith("few_test_examples: only 199") for text in job.warnings)


# ---- cancel


def test_queued_job_is_cancelled(service: Service) -> None:
    ToyWorker(service)
    job_id = submit(service)
    read, changed = verbs.cancel(service, job_id, project=PROJECT, reason="no")
    assert (read.state, changed, read.reason) == ("cancelled", True, "no")


def test_cancelling_again_changes_nothing(service: Service) -> None:
    _, lease = search_lease(service)
    verbs.cancel(service, lease.job, project=PROJECT, reason="first")
    for _ in range(2):
        revision = job_row(service, lease.job).revision
        read, changed = verbs.cancel(service, lease.job, project=PROJECT, reason="second")
        assert (changed, read.reason) == (False, "first")
        assert job_row(service, lease.job).revision == revision
        advance_all(service)
    assert job_row(service, lease.job).state == "cancelled"


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_finished_job_is_not_cancelled(service: Service, state: str) -> None:
    ToyWorker(service)
    job_id = submit(service)
    with service.database.writing() as session:
        session.execute(update(tables.job).values(state=state))
    with pytest.raises(JobAlreadyFinished) as caught:
        verbs.cancel(service, job_id, project=PROJECT)
    assert caught.value.members == {"state": state}


def test_unknown_job_is_not_found(service: Service) -> None:
    calls: list[Any] = [
        lambda: verbs.cancel(service, "job_0", project=PROJECT),
        lambda: lists.read_job(service, "job_0", project=PROJECT),
    ]
    for call in calls:
        assert isinstance(refused(call), NotFound)


def test_results_of_a_cancelled_job_are_kept(service: Service) -> None:
    worker = ToyWorker(service)
    worker, lease = search_lease(service, worker=worker, slots=2)
    worker.send(lease, 1, finished=[worker.finished(lease, lease.trials[0], 3)])
    verbs.cancel(service, lease.job, project=PROJECT)
    run_until_done(service, worker)
    best = lists.best(service, lease.job, project=PROJECT)
    assert best.recommended.trial == lease.trials[0].id
    assert (best.verdict, best.provisional) == ("undecided", False)
