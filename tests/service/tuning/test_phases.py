from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from tests.factories import (
    PROJECT,
    ToyWorker,
    advance_all,
    arm_rows,
    dataset,
    inspection,
    is_active,
    job_row,
    make_service,
    run_until,
    run_until_done,
    search_lease,
    submit,
    trial_rows,
    verdict_of,
    violations,
)

from dropt.jobs import verbs
from dropt.spec.protocol import InspectionReport, Reason, TrialAssignment
from dropt.spec.results import TrialPhase
from dropt.storage import events, jobs, tables
from dropt.tuning import gathering
from dropt.tuning.phases import advance, n_test_rows
from dropt.tuning.service import Service

# ---- the way to the search


def test_job_waits_until_a_worker_offers_its_model(service: Service) -> None:
    worker = ToyWorker(service)
    with service.database.writing() as session:
        session.execute(update(tables.worker).values(state="gone"))
    job_id = submit(service)
    advance_all(service)
    job = job_row(service, job_id)
    assert (job.state, job.reason) == ("queued", "Waiting for a worker that offers model 'mlp'.")
    revision = job.revision
    advance_all(service)
    assert job_row(service, job_id).revision == revision  # nothing new was to be said
    with service.database.writing() as session:
        session.execute(update(tables.worker).values(state="live"))
    advance_all(service)
    job = job_row(service, job_id)
    assert (job.state, job.phase) == ("running", "preparing")
    run_until_done(service, worker)


def test_job_lays_out_its_arms_once(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "search", job_id=job_id)
    with service.database.reading() as session:
        told = events.list_after(session, job_id, project=PROJECT, limit=99)
    of_type = [event.type for event in told]
    assert of_type.count("arm.created") == 3
    assert of_type.count("job.phase") == 2
    arms = arm_rows(service, job_id)
    assert {arm: row.target for arm, row in arms.items()} == {
        "without": 6, "with": 6, "textbook": 0,
    }  # fmt: skip
    assert arms["with"].study == f"{job_id}/with"
    assert arms["textbook"].study is None


def test_step_repeated_from_an_old_state_changes_nothing(service: Service) -> None:
    """Another replica may have read the job long ago."""
    worker = ToyWorker(service)
    job_id = submit(service)
    stale = [job_row(service, job_id)]
    for phase in ("preparing", "search", "evidence"):
        run_until(service, worker, phase, job_id=job_id)
        stale.append(job_row(service, job_id))
    before = job_row(service, job_id)
    for old in stale[:-1]:
        advance(service, old)
        assert job_row(service, job_id) == before
    run_until_done(service, worker)
    assert job_row(service, job_id).state == "succeeded"
    assert violations(service, job_id) == []


def test_sites_that_do_not_exist_fail_the_job_with_what_is_there(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, search={"sites": [{"match": "layers.9:out"}]})
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert job.state == "failed"
    assert job.failure is not None
    assert job.failure.reason == "unknown-site"
    assert "layers.3:out" in job.failure.message


def test_findings_are_told_beside_the_job(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    advance_all(service)
    lease = worker.lease()
    assert lease is not None
    found = inspection().model_dump() | {
        "findings": [{"code": "rate-high", "site": "a", "message": "is high", "remedy": "lower"}]
    }
    report = InspectionReport.model_validate({"result": found})
    worker.send(lease, 1, inspection=report, done=True)
    advance_all(service)
    assert job_row(service, job_id).warnings == ("rate-high: is high",)


def test_second_job_of_the_same_model_needs_no_second_look(service: Service) -> None:
    worker = ToyWorker(service)
    for seed in (1, 2):
        job_id = submit(service, search={"seed": seed}, evidence=False)
        run_until_done(service, worker)
        assert job_row(service, job_id).state == "succeeded"
    assert [lease.kind for lease in worker.leases].count("inspect") == 1


# ---- not tested


@pytest.mark.parametrize(
    ("fields", "n_test", "reason"),
    [
        ({"evidence": False}, 240, "evidence_off"),
        ({"compare": {"arms": ["with"]}}, 240, "no_finished_trial"),
        ({"compare": {"arms": ["without"]}}, 240, "no_finished_trial"),
        ({}, 0, "no_test_split"),
        ({}, 49, "too_few_test_examples"),
    ],
)
def test_job_that_cannot_be_tested_ends_with_the_reason(
    service: Service, fields: dict[str, Any], n_test: int, reason: str
) -> None:
    worker = ToyWorker(service, n_test=n_test)
    job_id = submit(service, **fields)
    run_until_done(service, worker)
    job, verdict = job_row(service, job_id), verdict_of(service, job_id)
    assert (job.state, job.verdict_word, verdict.reason) == ("succeeded", "not_tested", reason)
    assert not verdict.provisional
    assert set(verdict.cost.device_seconds) == {"search"}
    assert {row.phase for row in trial_rows(service, job_id)} == {"search"}
    assert violations(service, job_id) == []


def test_one_arm_searches_alone(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, compare={"arms": ["with"]})
    run_until_done(service, worker)
    assert [(row.arm, row.number) for row in trial_rows(service, job_id)] == [
        ("with", number) for number in range(6)
    ]


def test_search_without_a_completed_trial_ends(service: Service) -> None:
    def failing(trial: TrialAssignment, epoch: int) -> Reason | None:
        return "diverged" if trial.arm == "without" else None

    worker = ToyWorker(service, failing=failing)
    job_id = submit(service)
    run_until_done(service, worker)
    assert verdict_of(service, job_id).reason == "no_finished_trial"


def test_service_that_stops_at_the_end_of_the_search_still_ends_the_job(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a crash leaves, the job is not left in a phase that has nothing to do."""
    worker = ToyWorker(service)
    job_id = submit(service, evidence=False)
    monkeypatch.setattr("dropt.tuning.phases.finish", killed)
    with pytest.raises(KeyboardInterrupt):
        run_until_done(service, worker)
    monkeypatch.undo()
    worker.service = make_service(service.database, tmp_path)
    run_until_done(worker.service, worker, most=20)
    assert verdict_of(service, job_id).reason == "evidence_off"


def killed(*args: object, **kw: object) -> None:
    raise KeyboardInterrupt


# ---- failures


def test_too_many_failed_trials_fail_the_job(service: Service) -> None:
    worker = ToyWorker(service, failing=lambda trial, epoch: "error")
    job_id = submit(service, budget={"trials": 6, "max_failed_trials": 2})
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert (job.state, job.ended_by) == ("failed", "failure")
    assert job.failure is not None
    assert job.failure.reason == "max_failed_trials"
    assert "allowed are 2" in job.failure.message
    assert not [row for row in trial_rows(service, job_id) if row.state in ("waiting", "running")]
    assert violations(service, job_id) == []


def test_as_many_failures_as_allowed_are_borne(service: Service) -> None:
    def failing(trial: TrialAssignment, epoch: int) -> Reason | None:
        return "error" if trial.number == 0 else None

    worker = ToyWorker(service, failing=failing)
    job_id = submit(service, budget={"trials": 6, "max_failed_trials": 2}, evidence=False)
    run_until_done(service, worker)
    assert job_row(service, job_id).state == "succeeded"
    assert sum(row.state == "failed" for row in trial_rows(service, job_id)) == 2


def test_diverged_trials_are_results_and_fail_no_job(service: Service) -> None:
    worker = ToyWorker(service, failing=lambda trial, epoch: "diverged")
    job_id = submit(service, budget={"trials": 6, "max_failed_trials": 0}, evidence=False)
    run_until_done(service, worker)
    assert job_row(service, job_id).state == "succeeded"


def test_data_that_differ_fail_the_job_at_once(service: Service) -> None:
    worker, lease = search_lease(service)
    worker.send(lease, 1, finished=[worker.failed(lease.trials[0], 0, "data")])
    advance_all(service)
    job = job_row(service, lease.job)
    assert job.state == "failed"
    assert job.failure is not None
    assert (job.failure.reason, job.failure.retryable) == ("data", False)


# ---- cancelled at any moment


@pytest.mark.parametrize("phase", ["queued", "preparing", "search", "evidence"])
def test_job_is_cancelled_in_every_phase(service: Service, phase: str) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    if phase != "queued":
        run_until(service, worker, phase, job_id=job_id)
    verbs.cancel(service, job_id, project=PROJECT, reason="not needed")
    advance_all(service)
    job = job_row(service, job_id)
    assert (job.state, job.phase, job.reason) == ("cancelled", None, "not needed")
    assert worker.lease() is None
    assert not is_active(service)
    assert violations(service, job_id) == []


@pytest.mark.parametrize(
    ("step", "phase"), [("_train_wanted", "search"), ("_settle", "shortlist"),
                        ("_look", "compare")],
)  # fmt: skip
def test_step_that_was_under_way_changes_no_cancelled_job(
    service: Service, monkeypatch: pytest.MonkeyPatch, step: str, phase: TrialPhase
) -> None:
    real: Any = getattr(gathering, step)
    found: list[Any] = []

    def cancel_first(service: Service, job: jobs.JobRow, *more: Any) -> None:
        if not found and trial_rows(service, job.id, phase=phase):
            verbs.cancel(service, job.id, project=PROJECT, reason="now")
            found.extend([trial_rows(service, job.id), arm_rows(service, job.id)])
        real(service, job, *more)

    monkeypatch.setattr(gathering, step, cancel_first)
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until_done(service, worker)
    assert [trial_rows(service, job_id), arm_rows(service, job_id)] == found
    job = job_row(service, job_id)
    assert (job.state, job.verdict) == ("cancelled", None)
    assert violations(service, job_id) == []


# ---- how many test rows


@pytest.mark.parametrize(
    ("split", "n"),
    [
        (None, 240),
        ({"method": "given"}, 240),
        ({"method": "hash", "train": 0.7, "validation": 0.15, "test": 0.15}, 151),
        ({"method": "ordered", "train": 0.5, "validation": 0.25, "test": 0.25}, 251),
        ({"method": "hash", "train": 0.8, "validation": 0.2, "test": 0.0}, 0),
    ],
)
def test_test_rows_are_counted_by_the_split(
    service: Service, split: dict[str, Any] | None, n: int
) -> None:
    ToyWorker(service)
    job_id = submit(service, dataset={"name": "digits", "split": split})
    assert n_test_rows(dataset("digits", rows=1001), job_row(service, job_id).spec) == n
