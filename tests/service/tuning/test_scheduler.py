import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import update
from tests.factories import (
    DIGEST,
    PROJECT,
    ToyWorker,
    advance_all,
    inspection,
    job_row,
    lose,
    make_service,
    refused,
    registration,
    run_until,
    run_until_done,
    search_lease,
    submit,
    trial_rows,
    violations,
)

from dropt.errors import IdempotencyKeyReused, NameTaken, NotFound, ProtocolUnsupported
from dropt.spec.protocol import (
    Heartbeat,
    InspectionReport,
    Lease,
    LeaseRequest,
    Registration,
)
from dropt.storage import leases, tables, workers
from dropt.storage.engine import Database
from dropt.storage.jobs import JobRow
from dropt.tuning import scheduler
from dropt.tuning.issuing import ensure_waiting
from dropt.tuning.service import Idempotency, Service

KEY = Idempotency("/v1/leases", "key-1", "a" * 64)


def expires_in(service: Service, lease: Lease) -> float:
    with service.database.reading() as session:
        return leases.get(session, lease.id, project=PROJECT).expires_in_s


# ---- workers


def test_worker_of_another_protocol_is_told_which_one_is_spoken(service: Service) -> None:
    newer = registration().model_copy(update={"protocol": 2})
    with pytest.raises(ProtocolUnsupported) as caught:
        scheduler.register(service, newer, project=PROJECT)
    assert caught.value.members == {"supported": [1]}


def test_same_data_set_with_another_digest_is_refused(service: Service) -> None:
    ToyWorker(service)
    mine = registration()
    other = mine.datasets[0].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(NameTaken):
        scheduler.register(
            service, mine.model_copy(update={"datasets": (other,)}), project=PROJECT
        )


def test_worker_is_told_how_often_to_speak(service: Service) -> None:
    told = scheduler.register(service, registration(), project=PROJECT)
    assert (told.heartbeat_seconds, told.lease_seconds) == (10.0, 30.0)
    assert told.max_measurements == scheduler.MAX_MEASUREMENTS


def test_heartbeat_renews_the_leases_it_names_and_no_other(service_on_either: Service) -> None:
    service = service_on_either
    worker, first = search_lease(service, slots=2)
    second = worker.lease(slots=2)
    assert second is not None
    lose(service, worker)
    answer = scheduler.heartbeat(
        service, worker.id, Heartbeat(leases=(first.id,)), project=PROJECT
    )
    assert [news.id for news in answer.leases] == [first.id]
    assert answer.leases[0].expires_in == 30.0
    assert expires_in(service, first) > 20
    assert expires_in(service, second) < 0


def test_heartbeat_renews_no_lease_of_another_worker(service: Service) -> None:
    worker, lease = search_lease(service, slots=2)
    lose(service, worker)
    other = ToyWorker(service, name="other")
    answer = scheduler.heartbeat(service, other.id, Heartbeat(leases=(lease.id,)), project=PROJECT)
    assert (answer.leases[0].end, answer.leases[0].expires_in) == (True, 0.0)
    assert expires_in(service, lease) < 0


def test_heartbeat_tells_what_is_lost_and_what_must_stop(service: Service) -> None:
    worker, lease = search_lease(service, slots=4)
    lose(service, worker)
    other = ToyWorker(service, name="other").lease(slots=1)
    assert other is not None
    with service.database.writing() as session:
        session.execute(update(tables.trial).values(stop_requested=True))
    beat = Heartbeat(leases=(lease.id,))
    (news,) = scheduler.heartbeat(service, worker.id, beat, project=PROJECT).leases
    assert news.lost == (other.trials[0].id,)
    assert set(news.stop) == {one.id for one in lease.trials} - set(news.lost)


def test_heartbeat_of_an_unknown_worker_renews_nothing(service: Service) -> None:
    worker, lease = search_lease(service)
    scheduler.retire(service, worker.id, project=PROJECT)
    for id in (worker.id, "wrk_0"):
        with pytest.raises(NotFound):
            scheduler.heartbeat(service, id, Heartbeat(leases=(lease.id,)), project=PROJECT)


def test_worker_that_retires_gives_back_all_that_it_holds(service_on_either: Service) -> None:
    service = service_on_either
    worker, first = search_lease(service, slots=2)
    second = worker.lease(slots=2)
    assert second is not None
    scheduler.retire(service, worker.id, project=PROJECT)
    rows = trial_rows(service, first.job, states=["waiting"])
    assert [(row.attempt, row.losses, row.failures) for row in rows] == [(1, 0, 0)] * 4
    assert violations(service, first.job) == []
    with pytest.raises(NotFound):
        worker.lease()


def test_worker_that_leaves_while_it_is_granted_a_lease_gets_none(
    service_on_either: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would give it back: its trials would wait until it expires."""
    service = service_on_either
    worker = ToyWorker(service, slots=2)
    job_id = submit(service)
    run_until(service, worker, "search", job_id=job_id)

    def issue_and_leave(service: Service, job: JobRow, wanted: int) -> None:
        ensure_waiting(service, job, wanted)
        scheduler.retire(service, worker.id, project=PROJECT)

    monkeypatch.setattr("dropt.tuning.scheduler.ensure_waiting", issue_and_leave)
    with pytest.raises(NotFound):
        worker.lease()
    assert {row.state for row in trial_rows(service, job_id)} == {"waiting"}
    monkeypatch.undo()
    other = ToyWorker(service, name="other", slots=2).lease()
    assert other is not None
    assert [trial.attempt for trial in other.trials] == [1, 1]


def test_lease_is_given_back_once(service: Service) -> None:
    _, lease = search_lease(service)
    scheduler.give_back(service, lease.id, project=PROJECT)
    assert all(row.state == "waiting" for row in trial_rows(service, lease.job))
    with pytest.raises(NotFound):
        scheduler.give_back(service, lease.id, project=PROJECT)
    with pytest.raises(NotFound):
        scheduler.give_back(service, "lea_0", project=PROJECT)


def test_giving_back_takes_no_trial_from_who_has_it_now(service: Service) -> None:
    worker, lease = search_lease(service, slots=2)
    lose(service, worker)
    other = ToyWorker(service, name="other").lease(slots=2)
    assert other is not None
    scheduler.give_back(service, lease.id, project=PROJECT)
    rows = trial_rows(service, lease.job, states=["running"])
    assert {row.lease_id for row in rows} == {other.id}


def test_retiring_while_reports_come_in_deadlocks_nobody(service_on_either: Service) -> None:
    """Every transaction locks the job before its trials, and those before the worker."""
    service = service_on_either
    worker, lease = search_lease(service, slots=2)
    together = Barrier(4)

    def report(number: int) -> None:
        together.wait()
        ended = [worker.finished(lease, lease.trials[number], 3)]
        worker.send_held(lease, number + 1, finished=ended, measurements=[])

    def beat() -> None:
        together.wait()
        for _ in range(5):
            scheduler.heartbeat(service, worker.id, Heartbeat(leases=(lease.id,)), project=PROJECT)

    def give_back() -> None:
        together.wait()
        scheduler.give_back(service, lease.id, project=PROJECT)

    def advance() -> None:
        together.wait()
        advance_all(service)

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call) for call in (lambda: report(0), beat, give_back, advance)]
        for call in calls:
            call.result()
    assert violations(service, lease.job) == []


# ---- leases


def test_no_work_is_no_lease(service: Service) -> None:
    assert ToyWorker(service).lease() is None


def test_unknown_worker_gets_no_lease(service: Service) -> None:
    request = LeaseRequest(worker="wrk_0", slots=1)
    with pytest.raises(NotFound):
        scheduler.grant(service, request, project=PROJECT)


def test_draining_worker_gets_no_lease_and_is_told_to_end(service: Service) -> None:
    worker, lease = search_lease(service, slots=2)
    with service.database.writing() as session:
        session.execute(update(tables.worker).values(state="draining"))
    assert worker.lease() is None
    ended = [worker.finished(lease, lease.trials[0], 3)]
    answer = worker.send(lease, 1, finished=ended, free_slots=1)
    assert (answer.drain, answer.end, answer.add) == (True, True, ())
    assert scheduler.heartbeat(service, worker.id, Heartbeat(), project=PROJECT).drain


def test_repeated_request_gets_the_same_lease_renewed(service_on_either: Service) -> None:
    service = service_on_either
    worker, _ = search_lease(service, slots=2)
    request = LeaseRequest(worker=worker.id, slots=2)
    first = scheduler.grant(service, request, project=PROJECT, idempotency_key=KEY)
    assert first is not None
    lose(service, worker)
    again = scheduler.grant(service, request, project=PROJECT, idempotency_key=KEY)
    assert again is not None
    assert again.model_copy(update={"expires_in": first.expires_in}) == first
    assert expires_in(service, first) > 20
    assert len(trial_rows(service, first.job, states=["running"])) == 4
    other = Idempotency(KEY.path, KEY.key, "b" * 64)
    error = refused(
        lambda: scheduler.grant(service, request, project=PROJECT, idempotency_key=other)
    )
    assert isinstance(error, IdempotencyKeyReused)


def test_request_sent_again_while_it_is_answered_gets_the_same_lease(
    service_on_either: Service,
) -> None:
    service, n = service_on_either, 4
    worker, before = search_lease(service, slots=1)
    together = Barrier(n)
    request = LeaseRequest(worker=worker.id, slots=1)

    def ask() -> Lease | None:
        together.wait()
        return scheduler.grant(service, request, project=PROJECT, idempotency_key=KEY)

    with ThreadPoolExecutor(n) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(n)]]
    assert len({lease.id for lease in found if lease is not None}) == 1
    assert None not in found
    assert len(trial_rows(service, before.job, states=["running"])) == 2


def test_lost_worker_is_replaced_when_its_lease_has_expired(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By the clock of the database: nobody tells the service that the worker is gone."""
    folder = tmp_path_factory.mktemp("short")
    service = make_service(database, folder)
    worker, other = ToyWorker(service, slots=2), ToyWorker(service, name="other")
    job_id = submit(service, budget={"trials": 1})
    run_until(service, worker, "search", job_id=job_id)
    worker.service = make_service(database, folder, lease_s=0.3)
    lease = worker.lease()
    assert lease is not None
    deadline = time.monotonic() + 120
    taken = None
    while taken is None:
        assert time.monotonic() < deadline
        taken = other.lease()
    with database.reading() as session:
        assert leases.get(session, lease.id, project=PROJECT).expires_in_s < 0
    assert [(one.id, one.attempt) for one in taken.trials] == [(t.id, 2) for t in lease.trials]
    rows = trial_rows(service, lease.job)
    assert [(row.losses, row.failures) for row in rows] == [(1, 0)] * 2
    assert worker.send_held(lease, 1, finished=[], measurements=[]) is not None


def test_trial_that_is_lost_again_and_again_is_leased_alone_then_failed(
    service: Service,
) -> None:
    worker, lease = search_lease(service, slots=4, budget={"trials": 2}, evidence=False)
    seen = []
    for _ in range(30):
        lose(service, worker)
        again = worker.lease(slots=4)
        if again is None:
            break
        seen.append(again)
    assert len(seen[0].trials) == 4  # lost once: together
    assert all(len(one.trials) == 1 and one.slots == 1 for one in seen[1:])
    rows = trial_rows(service, lease.job)
    assert {(row.state, row.reason, row.failures) for row in rows} == {
        ("failed", "worker-lost", 3)
    }
    assert violations(service, lease.job) == []
    run_until_done(service, worker)
    verdict = job_row(service, lease.job).verdict
    assert verdict is not None
    assert verdict.verdict == "not_tested"


def test_samplers_learn_of_trials_that_were_lost_too_often(service: Service) -> None:
    worker, lease = search_lease(service, slots=1, budget={"trials": 1}, evidence=False)
    memory = service.memory(job_row(service, lease.job), "with")
    while not trial_rows(service, lease.job, states=["failed"]):
        lose(service, worker)
        worker.lease(slots=1)
    assert service.memory(job_row(service, lease.job), "with") is not memory


def test_job_of_higher_priority_comes_first(service: Service) -> None:
    worker = ToyWorker(service, slots=2)
    submit(service)
    dearer = submit(service, priority=5)
    run_until(service, worker, "search", job_id=dearer)
    leased = [worker.lease() for _ in range(4)]
    assert [lease.job for lease in leased if lease is not None] == [dearer] * 4


def test_two_jobs_go_on_at_once_and_keep_apart(service: Service) -> None:
    workers_ = [ToyWorker(service, name=name, slots=4) for name in ("a", "b")]
    one = submit(service, search={"seed": 1}, evidence=False)
    two = submit(service, search={"seed": 2}, evidence=False)
    run_until_done(service, *workers_)
    for job_id in (one, two):
        assert job_row(service, job_id).state == "succeeded"
        assert len(trial_rows(service, job_id, phase="search")) == 12
        assert violations(service, job_id) == []
    seeds = [{row.seed for row in trial_rows(service, id)} for id in (one, two)]
    assert not seeds[0] & seeds[1]


def test_worker_without_the_model_or_the_data_gets_no_lease(service: Service) -> None:
    search_lease(service, slots=1)
    mine = registration("bare")
    assert ToyWorker(service, name="equal").lease(slots=1) is not None
    without_model = mine.model_copy(update={"models": ()})
    without_data = mine.model_copy(update={"datasets": mine.datasets[1:]})
    for offer in (without_model, without_data):
        id = scheduler.register(service, offer, project=PROJECT).id
        request = LeaseRequest(worker=id, slots=1)
        assert scheduler.grant(service, request, project=PROJECT) is None


@pytest.mark.parametrize(
    ("asked", "probed", "wanted", "slots"), [(16, 8, "auto", 8), (4, 8, "auto", 4), (16, 8, 3, 3)]
)
def test_pack_is_as_large_as_worker_probe_and_user_allow(
    service: Service, asked: int, probed: int, wanted: int | str, slots: int
) -> None:
    worker = ToyWorker(service)
    submit(service, resources={"slots": wanted}, budget={"trials": 40})
    advance_all(service)
    lease = worker.lease()
    assert lease is not None
    found = InspectionReport(result=inspection(slots=probed))
    worker.send(lease, 1, inspection=found, done=True)
    advance_all(service)
    pack = worker.lease(slots=asked)
    assert pack is not None
    assert (pack.slots, len(pack.trials)) == (slots, slots)


def test_trainings_of_the_evidence_are_shared_among_the_workers(service: Service) -> None:
    """Eight at once is what the probe found best, but the slowest pack ends the step."""
    workers_ = [ToyWorker(service, name=f"w{i}") for i in range(4)]
    job_id = submit(service)
    run_until(service, workers_[0], "evidence", job_id=job_id)
    advance_all(service)
    n = len(trial_rows(service, job_id, phase="shortlist"))
    packs = [worker.lease() for worker in workers_]
    sizes = [len(pack.trials) for pack in packs if pack is not None]
    assert len(sizes) == 4
    assert max(sizes) == -(-n // 4)


def test_silent_worker_is_gone_and_registers_again(service: Service) -> None:
    worker, _ = search_lease(service, slots=1)
    with service.database.writing() as session:
        long_ago = workers.get(session, worker.id, project=PROJECT).registered_at
        session.execute(update(tables.worker).values(last_seen_at=long_ago.replace(year=2020)))
    with pytest.raises(NotFound):
        worker.lease()
    again: Registration = registration()
    assert scheduler.register(service, again, project=PROJECT).id != worker.id


# ---- artifacts


def test_artifact_is_new_once(service: Service) -> None:
    worker = ToyWorker(service)
    digest = worker.put(b"abc")
    assert scheduler.has_artifact(service, digest, project=PROJECT)
    assert not scheduler.has_artifact(service, DIGEST, project=PROJECT)
    again = scheduler.put_artifact(service, digest, [b"abc"], project=PROJECT, max_bytes=10)
    assert not again
