from functools import partial
from typing import Any

import pytest
from tests.factories import (
    PROJECT,
    ToyWorker,
    advance_all,
    job_row,
    refused,
    run_until,
    run_until_done,
    submit,
)
from tests.service.conftest import Done

from dropt.errors import NoResultYet, NotFound
from dropt.jobs import lists
from dropt.tuning.service import Service


def test_finished_job_is_told_whole(done: Done) -> None:
    job = lists.read_job(done.service, done.job.id, project=PROJECT)
    assert (job.state, job.done, job.phase, job.ended_by) == ("succeeded", True, None, "budget")
    assert job.verdict == "helps"
    assert job.progress.fraction == 1.0
    assert {arm.arm: arm.target for arm in job.progress.arms} == {"without": 8, "with": 8}
    for arm in job.progress.arms:
        assert arm.complete + arm.pruned == 8
        assert arm.running == arm.waiting == arm.failed == 0
    assert job.progress.evidence.seeds_done == 5
    assert job.progress.evidence.seeds_cap == 8
    assert job.progress.evidence.shortlist_done == job.progress.evidence.shortlist_target
    epochs = sum(row.epoch for row in done.trials())
    assert job.consumed.epochs == epochs
    assert job.consumed.device_seconds == pytest.approx(0.01 * epochs, abs=1e-3)


def test_progress_never_falls(service: Service) -> None:
    worker = ToyWorker(service, slots=3)
    job_id = submit(service)
    seen: list[float] = []

    def look(*_: object) -> None:
        read = lists.read_job(service, job_id, project=PROJECT)
        (summary,) = lists.list_jobs(service, project=PROJECT, limit=9)
        assert summary.fraction == read.progress.fraction
        seen.append(read.progress.fraction)

    worker.on_report = look
    run_until_done(service, worker)
    look()
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert len(set(seen)) > 10


def test_arms_are_told_in_the_order_of_the_job(done: Done) -> None:
    arms = lists.arms(done.service, done.job.id, project=PROJECT)
    assert [arm.arm for arm in arms] == ["without", "with", "textbook"]
    for arm in arms[:2]:
        assert arm.study == f"{done.job.id}/{arm.arm}"
        assert sum(arm.trials.values()) == arm.target == 8
        values = [
            row.value for row in done.trials(arm=arm.arm, phase="search", states=["completed"])
        ]
        assert arm.best_value == min(value for value in values if value is not None)
        spent = sum(row.seconds for row in done.trials(arm=arm.arm))
        assert arm.device_seconds == pytest.approx(spent, abs=1e-3)
    assert (arms[2].searched, arms[2].target, arms[2].best_trial) == (False, 0, None)


def test_trials_are_paged_by_value_without_gap_or_repetition(done: Done) -> None:
    seen: list[str] = []
    values: list[float | None] = []
    after = None
    while True:
        page = lists.trials(
            done.service, done.job.id, project=PROJECT, limit=3, by_value=True, after=after,
            phase="search",
        )  # fmt: skip
        if not page:
            break
        seen += [trial.id for trial in page]
        values += [trial.value for trial in page]
        after = (page[-1].value, page[-1].id)
    assert sorted(seen) == sorted(row.id for row in done.trials(phase="search"))
    told = [value for value in values if value is not None]
    assert told == sorted(told)
    assert values[: len(told)] == told  # those without a value come last


def test_trial_tells_where_it_was_pruned(done: Done) -> None:
    for trial in lists.trials(done.service, done.job.id, project=PROJECT, limit=500):
        assert (trial.pruned_at is not None) == (trial.state == "pruned")


def test_events_are_told_in_order_and_after_a_sequence(done: Done) -> None:
    every = lists.events(done.service, done.job.id, project=PROJECT, limit=9999)
    assert [event.sequence for event in every] == list(range(1, len(every) + 1))
    rest = lists.events(done.service, done.job.id, project=PROJECT, limit=9999, after=10)
    assert rest == every[10:]
    only = lists.events(
        done.service, done.job.id, project=PROJECT, limit=9999, types=["job.phase"]
    )
    assert [event.data["phase"] for event in only] == ["preparing", "search", "evidence"]


def test_every_list_of_an_unknown_job_is_not_found(done: Done) -> None:
    calls: list[Any] = [
        lists.read_job, lists.revision, lists.verdict, lists.best, lists.arms,
    ]  # fmt: skip
    for call in calls:
        error = refused(partial(call, done.service, "job_0", project=PROJECT))
        assert isinstance(error, NotFound)
    for paged in (lists.trials, lists.events):
        with pytest.raises(NotFound):
            paged(done.service, "job_0", project=PROJECT, limit=1)
        with pytest.raises(NotFound):
            paged(done.service, done.job.id, project="other", limit=1)


def test_job_without_a_look_has_no_verdict(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    for call in (lists.verdict, lists.best):
        error = refused(partial(call, service, job_id, project=PROJECT))
        assert isinstance(error, NoResultYet)
    run_until(service, worker, "evidence", job_id=job_id)
    assert lists.best(service, job_id, project=PROJECT).provisional


def test_best_configurations_are_paged_over_jobs_that_found_none(service: Service) -> None:
    worker = ToyWorker(service)
    found: list[str] = []
    for seed, fails in enumerate((False, True, True, False)):
        worker.failing = lambda trial, epoch, fails=fails: "diverged" if fails else None  # type: ignore[misc]
        found.append(submit(service, search={"seed": seed}, budget={"trials": 2}, evidence=False))
        run_until_done(service, worker)
    first = lists.list_best(service, project=PROJECT, limit=1)
    assert [best.job for best, _ in first] == [found[3]]
    second = lists.list_best(service, project=PROJECT, limit=1, after=first[0][1])
    assert [best.job for best, _ in second] == [found[0]]
    assert lists.list_best(service, project=PROJECT, limit=1, after=second[0][1]) == []
    both = lists.list_best(service, project=PROJECT, limit=2)
    assert [best.job for best, _ in both] == [found[3], found[0]]


def test_jobs_are_listed_with_their_verdict(done: Done) -> None:
    (summary,) = lists.list_jobs(done.service, project=PROJECT, limit=9, model="mlp")
    assert done.job.verdict is not None
    assert (summary.verdict, summary.effect) == ("helps", done.job.verdict.effect)
    assert summary.interval == done.job.verdict.interval
    assert lists.list_jobs(done.service, project="other", limit=9) == []
    assert lists.list_jobs(done.service, project=PROJECT, limit=9, state=["failed"]) == []


def test_revision_rises_with_every_change(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, evidence=False)
    first = lists.revision(service, job_id, project=PROJECT)
    advance_all(service)
    second = lists.revision(service, job_id, project=PROJECT)
    run_until_done(service, worker)
    assert first < second < lists.revision(service, job_id, project=PROJECT)
    assert job_row(service, job_id).is_done
