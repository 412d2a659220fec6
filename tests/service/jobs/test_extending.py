"""Pauses, stops and extensions of jobs that are really carried out."""

import pytest
from tests.factories import (
    PROJECT,
    ToyWorker,
    advance_all,
    arm_rows,
    job_row,
    run_until,
    run_until_done,
    search_lease,
    submit,
    trial_rows,
    verdict_of,
    violations,
)

from dropt.errors import BadState, InvalidRequest, QuotaExceeded
from dropt.jobs import extending, lists, verbs
from dropt.spec.changes import Extension
from dropt.spec.protocol import Reason, TrialAssignment
from dropt.storage import events, verdicts
from dropt.tuning.service import Idempotency, Quotas, Service


def told(service: Service, job_id: str) -> list[str]:
    with service.database.reading() as session:
        found = events.list_after(session, job_id, project=PROJECT, limit=10_000)
    return [event.type for event in found]


def done_job(service: Service, worker: ToyWorker, **fields: object) -> str:
    job_id = submit(service, **fields)
    run_until_done(service, worker)
    return job_id


# ---- pause and resume


def test_paused_job_finishes_what_runs_and_starts_nothing(service_on_either: Service) -> None:
    service = service_on_either
    worker, lease = search_lease(service, slots=4)
    verbs.pause(service, lease.job, project=PROJECT)
    worker.train(lease)
    advance_all(service)
    states = {row.state for row in trial_rows(service, lease.job)}
    assert "running" not in states
    n_ended = sum(row.state in ("completed", "pruned") for row in trial_rows(service, lease.job))
    assert n_ended == len(lease.trials)
    assert worker.lease() is None
    verbs.resume(service, lease.job, project=PROJECT)
    run_until_done(service, worker)
    job = job_row(service, lease.job)
    assert (job.state, job.ended_by, job.paused_at) == ("succeeded", "budget", None)
    assert job.paused_seconds > 0
    assert violations(service, lease.job) == []


def test_job_that_is_paused_before_it_starts_waits(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    verbs.pause(service, job_id, project=PROJECT)
    advance_all(service)
    assert job_row(service, job_id).state == "paused"
    read, _ = verbs.resume(service, job_id, project=PROJECT)
    assert read.state == "queued"
    run_until_done(service, worker)
    assert job_row(service, job_id).state == "succeeded"


# ---- stop


def test_stopped_search_is_decided_with_what_there_is(service_on_either: Service) -> None:
    service = service_on_either
    worker, lease = search_lease(service, slots=6, budget={"trials": 40})
    read, _ = verbs.stop(service, lease.job, project=PROJECT)
    assert (read.state, read.phase) == ("stopping", "search")
    worker.train(lease)
    run_until_done(service, worker)
    job = job_row(service, lease.job)
    assert (job.state, job.ended_by) == ("succeeded", "stopped")
    searched = trial_rows(service, lease.job, phase="search")
    ended = [row for row in searched if row.state in ("completed", "pruned")]
    assert len(ended) == len(lease.trials)
    assert verdict_of(service, lease.job).seeds >= 5
    assert violations(service, lease.job) == []


def test_stop_without_evidence_decides_nothing(service: Service) -> None:
    worker, lease = search_lease(service, slots=6)
    verbs.stop(service, lease.job, project=PROJECT, evidence=False)
    worker.train(lease)
    run_until_done(service, worker)
    assert job_row(service, lease.job).ended_by == "stopped"
    verdict = verdict_of(service, lease.job)
    assert (verdict.verdict, verdict.reason) == ("not_tested", "evidence_off")
    assert trial_rows(service, lease.job, phase="compare") == []


@pytest.mark.parametrize("evidence", [True, False])
def test_stop_in_the_evidence_ends_it_early(service: Service, evidence: bool) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, evidence={"effort": "default"})
    run_until(service, worker, "evidence", job_id=job_id)
    advance_all(service)
    verbs.stop(service, job_id, project=PROJECT, evidence=evidence)
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert (job.state, job.ended_by) == ("succeeded", "stopped")
    verdict = verdict_of(service, job_id)
    assert verdict.seeds == (5 if evidence else 0)  # the first look, and no other


def test_stop_before_the_search_finds_nothing(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    advance_all(service)
    assert job_row(service, job_id).phase == "preparing"
    verbs.stop(service, job_id, project=PROJECT)
    run_until_done(service, worker)
    assert verdict_of(service, job_id).reason == "no_finished_trial"


# ---- extend


def test_more_trials_are_a_new_attempt_with_its_own_seeds(service_on_either: Service) -> None:
    service = service_on_either
    worker = ToyWorker(service)
    job_id = done_job(service, worker)
    first = verdict_of(service, job_id)
    before = trial_rows(service, job_id, phase="compare")
    read, _ = extending.extend(service, job_id, Extension(trials=4), project=PROJECT)
    assert (read.state, read.phase, read.finished_at) == ("running", "search", None)
    assert read.spec.budget.trials == 10
    assert lists.verdict(service, job_id, project=PROJECT).attempt == 1  # until the new one
    run_until_done(service, worker)

    second = verdict_of(service, job_id)
    assert (first.attempt, second.attempt) == (1, 2)
    for arm in ("without", "with"):
        assert len(trial_rows(service, job_id, arm=arm, phase="search")) == 10
    after = trial_rows(service, job_id, phase="compare")
    assert {row.seed for row in before}.isdisjoint(row.seed for row in after)
    assert {row.id for row in before}.isdisjoint(row.id for row in after)
    by_arm = {
        arm: sorted(row.seed for row in after if row.arm == arm) for arm in read.spec.compare.arms
    }
    assert by_arm["with"] == by_arm["without"], "the arms are paired"
    with service.database.reading() as session:
        looks = verdicts.list_looks(session, job_id, project=PROJECT)
    assert {look.attempt for look in looks} == {1, 2}
    assert [one.look for one in second.looks] == list(range(1, len(second.looks) + 1))
    assert told(service, job_id).count("job.finished") == 2
    assert violations(service, job_id) == []


def test_new_evidence_compares_the_same_configurations_again(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = done_job(service, worker)
    winners = {arm: row.winner for arm, row in arm_rows(service, job_id).items()}
    n_searched = len(trial_rows(service, job_id, phase="search"))
    seeds = {row.seed for row in trial_rows(service, job_id, phase="compare")}
    read, _ = extending.extend(service, job_id, Extension(evidence="again"), project=PROJECT)
    assert read.phase == "evidence"
    run_until_done(service, worker)
    assert {arm: row.winner for arm, row in arm_rows(service, job_id).items()} == winners
    assert len(trial_rows(service, job_id, phase="search")) == n_searched
    assert seeds.isdisjoint(row.seed for row in trial_rows(service, job_id, phase="compare"))
    assert verdict_of(service, job_id).attempt == 2
    assert violations(service, job_id) == []


def test_search_under_way_gets_more_trials(service: Service) -> None:
    worker, lease = search_lease(service, slots=4)
    extending.extend(service, lease.job, Extension(trials=3), project=PROJECT)
    worker.train(lease)
    run_until_done(service, worker)
    job = job_row(service, lease.job)
    assert (job.state, job.verdict_attempt) == ("succeeded", 1)
    assert {row.target for row in arm_rows(service, lease.job).values() if row.searched} == {9}
    assert violations(service, lease.job) == []


def test_extension_in_the_evidence_goes_back_to_the_search(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "evidence", job_id=job_id)
    advance_all(service)
    lease = worker.lease()
    assert lease is not None
    extending.extend(service, job_id, Extension(trials=2), project=PROJECT)
    worker.train(lease)  # its trials are cancelled meanwhile
    run_until_done(service, worker)
    assert verdict_of(service, job_id).attempt == 2
    assert len(trial_rows(service, job_id, arm="with", phase="search")) == 8
    assert violations(service, job_id) == []


def test_time_that_had_run_out_is_added(service: Service) -> None:
    worker, lease = search_lease(service, slots=4, budget={"trials": 30, "seconds": 0.001})
    job_id = lease.job
    advance_all(service)  # the time is up
    worker.train(lease)
    run_until_done(service, worker)
    assert len(trial_rows(service, job_id, phase="search")) < 60
    extending.extend(service, job_id, Extension(seconds=3600), project=PROJECT)
    run_until_done(service, worker)
    for arm in ("without", "with"):
        rows = trial_rows(service, job_id, arm=arm, phase="search")
        assert len(rows) == 30, "the budget that the lack of time had cut short"


def test_what_cannot_be_extended_is_refused(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = done_job(service, worker, evidence=False)
    for more, pointer in (
        (Extension(seconds=5), "/seconds"),
        (Extension(evidence="again"), "/evidence"),
        (Extension(trials=9_999), "/trials"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            extending.extend(service, job_id, more, project=PROJECT)
        assert caught.value.errors[0].pointer == pointer
    service.quotas = Quotas(open_trials=50)
    with pytest.raises(QuotaExceeded):
        extending.extend(service, job_id, Extension(trials=26), project=PROJECT)
    assert job_row(service, job_id).state == "succeeded"


def test_extension_that_is_sent_twice_counts_once(service: Service) -> None:
    _, lease = search_lease(service)
    key = Idempotency(f"/v1/jobs/{lease.job}/extend", "k", "a" * 64)
    for is_second in (False, True):
        read, is_replay = extending.extend(
            service, lease.job, Extension(trials=5), project=PROJECT, key=key
        )
        assert (is_replay, read.spec.budget.trials) == (is_second, 11)
    assert arm_rows(service, lease.job)["with"].target == 11


# ---- a failure that going on can help


def test_failed_job_goes_on_with_as_many_failures_again(service: Service) -> None:
    is_broken = True

    def failing(trial: TrialAssignment, epoch: int) -> Reason | None:
        return "error" if is_broken and trial.number < 2 else None

    worker = ToyWorker(service, failing=failing)
    job_id = submit(service, budget={"trials": 6, "max_failed_trials": 1})
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert job.state == "failed"
    assert job.failure is not None
    assert job.failure.retryable
    is_broken = False
    read, changed = verbs.resume(service, job_id, project=PROJECT)
    assert (read.state, read.phase, changed, read.failure) == ("running", "search", True, None)
    run_until_done(service, worker)
    assert job_row(service, job_id).state == "succeeded"
    assert violations(service, job_id) == []


def test_job_that_failed_for_good_stays_so(service: Service) -> None:
    worker = ToyWorker(service, failing=lambda trial, epoch: "data")
    job_id = submit(service)
    run_until_done(service, worker)
    with pytest.raises(BadState) as caught:
        verbs.resume(service, job_id, project=PROJECT)
    assert caught.value.members == {"state": "failed", "allowed": ["clone", "delete"]}
