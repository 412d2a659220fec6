import asyncio
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import update
from tests.factories import (
    PROJECT,
    ToyWorker,
    arm_rows,
    background,
    is_active,
    job_row,
    run_in_threads,
    run_until,
    run_until_done,
    submit,
    trial_rows,
)

from dropt.jobs import verbs
from dropt.spec.protocol import Reason, TrialAssignment
from dropt.storage import mirroring, tables
from dropt.storage.engine import optuna_url
from dropt.storage.trials import TrialRow
from dropt.tuning import phases
from dropt.tuning.background import Background
from dropt.tuning.service import Service
from dropt.tuning.studies import close_storage, open_storage

STATES = {
    "waiting": TrialState.RUNNING,
    "running": TrialState.RUNNING,
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "cancelled": TrialState.FAIL,
}
PATIENCE_S = 300.0


def mirrored(service: Service, job_id: str, arm: str) -> list[FrozenTrial]:
    """The trials of a study, as whoever reads Optuna's database finds them."""
    storage = open_storage(optuna_url(service.database.url))
    try:
        return optuna.load_study(study_name=f"{job_id}/{arm}", storage=storage).trials
    finally:
        close_storage(storage)


def note(service: Service, job_id: str, arm: str) -> str:
    storage = open_storage(optuna_url(service.database.url))
    try:
        study_id = storage.get_study_id_from_name(f"{job_id}/{arm}")
        attributes = storage.get_study_system_attrs(study_id)
        parts = sorted(name for name in attributes if name.startswith("dashboard:note_str:"))
        return "".join(attributes[name] for name in parts)
    finally:
        close_storage(storage)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline, pause = monotonic() + PATIENCE_S, threading.Event()
    while not holds():
        assert monotonic() < deadline, "it did not come about"
        pause.wait(0.02)


def assert_mirrors(service: Service, job_id: str, arm: str) -> None:
    rows = trial_rows(service, job_id, arm=arm, phase="search")
    told = mirrored(service, job_id, arm)
    assert [trial.number for trial in told] == [row.number for row in rows]
    for trial, row in zip(told, rows, strict=True):
        assert_same(trial, row)


def assert_same(trial: FrozenTrial, row: TrialRow) -> None:
    assert trial.user_attrs == {"trial": row.id}
    assert trial.state == STATES[row.state]
    if row.state == "completed":
        assert trial.value == row.value
    assert trial.params["lr"] == row.params.lr
    rates = {name[5:]: rate for name, rate in trial.params.items() if name.startswith("rate/")}
    assert rates == row.rates
    assert row.mirrored == row.state


def some_fail(trial: TrialAssignment, epoch: int) -> Reason | None:
    return "diverged" if trial.number == 3 else None


def test_studies_mirror_the_trials_of_a_job(service_on_either: Service) -> None:
    service = service_on_either
    worker = ToyWorker(service, failing=some_fail)
    job_id = submit(service, budget={"trials": 8})
    run_in_threads(service, [worker])
    job = job_row(service, job_id)
    assert job.verdict is not None
    states = {row.state for row in trial_rows(service, job_id, phase="search")}
    assert states == {"completed", "pruned", "failed"}
    for arm in ("without", "with"):
        assert_mirrors(service, job_id, arm)
        text = note(service, job_id, arm)
        assert f"/v1/jobs/{job_id}" in text
        assert f"Verdict: **{job.verdict.verdict}**" in text
        assert job.verdict.summary in text
        assert job.verdict.interval is not None
        assert f"{job.verdict.interval[0]:+.4g}" in text
    assert arm_rows(service, job_id)["textbook"].study_id is None


def test_running_trials_are_seen_while_they_run(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "search", job_id=job_id)
    lease = worker.lease()
    assert lease is not None
    with background(service):
        wait_until(lambda: all(row.mirrored for row in trial_rows(service, job_id)))
        assert {t.state for t in mirrored(service, job_id, "with")} == {TrialState.RUNNING}
    assert "No verdict yet." in note(service, job_id, "with")


def test_job_that_cannot_go_on_holds_no_other_job_up(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = ToyWorker(service)
    broken = submit(service, priority=9)
    other = submit(service, evidence=False)
    real = phases.advance

    def advance(service: Service, job: Any) -> None:
        if job.id == broken:
            raise ZeroDivisionError("a fault of ours")
        real(service, job)

    monkeypatch.setattr("dropt.tuning.background.advance", advance)
    with background(service):
        wait_until(lambda: not worker.work_once() and job_row(service, other).is_done)
    assert job_row(service, other).state == "succeeded"
    assert job_row(service, broken).state == "queued"
    assert any(record.message == "background.failed" for record in caplog.records)


def test_thread_that_ends_has_mirrored_everything(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, evidence=False)
    thread = Background(service)
    thread.start()
    wait_until(lambda: not worker.work_once() and not is_active(service))
    thread.stop()
    for arm in ("without", "with"):
        assert_mirrors(service, job_id, arm)
    assert "not tested" in note(service, job_id, "with")


def test_thread_catches_up_on_what_was_not_mirrored_when_the_service_died(
    service: Service,
) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, evidence=False)
    run_until_done(service, worker)  # no thread, so nothing is mirrored
    assert not any(row.mirrored for row in trial_rows(service, job_id))
    with background(service):
        wait_until(lambda: all(row.mirrored == row.state for row in trial_rows(service, job_id)))
    for arm in ("without", "with"):
        assert_mirrors(service, job_id, arm)


def test_service_that_dies_between_optuna_and_our_row_writes_the_trial_once(
    service: Service,
) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, evidence=False)
    run_until_done(service, worker)
    with background(service):
        wait_until(lambda: all(row.mirrored for row in trial_rows(service, job_id)))
    with service.database.writing() as session:  # as if our commit had not come
        session.execute(update(tables.trial).values(mirrored=None, optuna_id=None))
    with background(service):
        wait_until(lambda: all(row.mirrored for row in trial_rows(service, job_id)))
    for arm in ("without", "with"):
        assert_mirrors(service, job_id, arm)


def test_note_that_a_service_did_not_come_to_write_is_written_by_the_next(
    service: Service,
) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    with background(service):
        wait_until(lambda: worker.work_once() and job_row(service, job_id).phase == "evidence")
    assert not trials_behind(service)
    run_until_done(service, worker)  # no thread: the verdict reaches no note
    assert not trials_behind(service)
    assert "Verdict" not in note(service, job_id, "with")
    with background(service):
        pass
    assert "Verdict: **helps**" in note(service, job_id, "with")


def trials_behind(service: Service) -> bool:
    with service.database.reading() as session:
        return bool(mirroring.unmirrored_jobs(session))


def test_steps_follow_each_other_without_a_tick(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever submits or reports wakes the thread."""
    monkeypatch.setattr("dropt.tuning.background.TICK_S", 3600.0)
    worker = ToyWorker(service)
    service.wake.clear()
    with background(service):
        job_id = submit(service, evidence=False)
        wait_until(lambda: not worker.work_once() and job_row(service, job_id).is_done)
    assert job_row(service, job_id).state == "succeeded"


def test_job_whose_model_is_known_reaches_its_search_without_a_tick_and_tells_so(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dropt.tuning.background.TICK_S", 3600.0)
    run_until(service, ToyWorker(service), "search", job_id=submit(service))
    service.wake.clear()

    async def wait_for_news(job_id: str) -> None:
        with service.bell.listening() as rung:
            while job_row(service, job_id).phase != "search":
                await rung.wait()
                rung.clear()

    with background(service):
        job_id = submit(service)
        asyncio.run(asyncio.wait_for(wait_for_news(job_id), PATIENCE_S))
    assert job_row(service, job_id).phase == "search"


def test_cancelled_job_is_mirrored_as_it_ended(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "search", job_id=job_id)
    assert worker.lease() is not None
    with background(service):
        verbs.cancel(service, job_id, project=PROJECT)
        service.wake.set()
        wait_until(lambda: job_row(service, job_id).is_done)
    assert {t.state for t in mirrored(service, job_id, "with")} == {TrialState.FAIL}
    assert not trials_behind(service)
