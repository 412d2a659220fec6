"""Trials: claimed in order, ended once, listed, and poison kept away from others."""

import logging

import pytest
from tests.service.storage.rows import PROJECT, Scene, add_trials, claim, measured, set_scene

from dropt.errors import NotFound
from dropt.spec.space import Dropout
from dropt.storage import leases, measurements, mirroring, trials
from dropt.storage.engine import Database
from dropt.storage.session import Session
from dropt.storage.trials import TrialRow


def test_a_trial_is_read_back_as_it_was_stored(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
    with database.reading() as session:
        row = trials.get(session, scene.ids[0], project=PROJECT)
        with pytest.raises(NotFound):
            trials.get(session, "trl_unknown", project=PROJECT)
    assert row == scene.trials[0]
    assert row.sites == {"layers.1:out": Dropout(rate=0.3)}
    assert (row.seed, row.state, row.attempt, row.values) == (2**53 - 1, "waiting", 0, {})


def test_inserted_trials_come_back_in_the_order_given(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=50)
    assert [row.number for row in scene.trials] == list(range(50))


def test_claims_go_on_evenly_over_the_arms(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        add_trials(session, scene.job.id, 3, arm="without")
        taken = claim(session, scene, limit=4)
        rest = claim(session, scene)
    assert [(row.number, row.arm) for row in taken] == [
        (0, "with"), (0, "without"), (1, "with"), (1, "without"),
    ]  # fmt: skip
    assert [(row.number, row.arm) for row in rest] == [(2, "with"), (2, "without")]


def test_a_claim_starts_the_trial(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dropt.storage.trials")
    with database.writing() as session:
        scene = set_scene(session, n_trials=1)
        (row,) = claim(session, scene)
    assert (row.state, row.attempt, row.worker_id) == ("running", 1, scene.worker)
    assert row.started_at is not None
    assert caplog.messages == ["lease.claimed"]


def test_a_claim_takes_no_trial_of_another_phase(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=0)
        add_trials(session, scene.job.id, 2, phase="compare")
        assert claim(session, scene) == []


@pytest.mark.parametrize("limit", [0, 2])
def test_a_claim_takes_at_most_its_limit(database: Database, limit: int) -> None:
    with database.writing() as session:
        assert len(claim(session, set_scene(session), limit=limit)) == limit


def test_a_trial_ends_once(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=1)
        (row,) = claim(session, scene)
        assert not trials.finish(session, row.id, 2, project=PROJECT, state="completed")
        assert trials.finish(
            session, row.id, 1, project=PROJECT, state="completed", value=0.25, best_epoch=21,
            values={"validation": {"loss": 0.25, "accuracy": None}},
        )  # fmt: skip
        assert not trials.finish(session, row.id, 1, project=PROJECT, state="failed")
        ended = trials.get(session, row.id, project=PROJECT)
    assert (ended.state, ended.value, ended.best_epoch) == ("completed", 0.25, 21)
    assert ended.values == {"validation": {"loss": 0.25, "accuracy": None}}
    assert ended.finished_at is not None


def test_a_trial_that_was_given_back_waits_without_a_failure(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        claim(session, scene)
        assert trials.requeue(session, scene.ids, project=PROJECT, lease_id="lea_other") == []
        back = trials.requeue(session, scene.ids, project=PROJECT, lease_id=scene.lease)
        again = claim(session, scene)
    assert back == sorted(scene.ids)
    assert [(row.attempt, row.failures, row.losses) for row in again] == [(2, 0, 0)] * 3


def test_a_cancelled_job_has_no_open_trial(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        (first, *_) = claim(session, scene, limit=2)
        trials.finish(session, first.id, 1, project=PROJECT, state="completed")
        cancelled = trials.cancel_open(session, scene.job.id, project=PROJECT)
        assert {row.id for row in cancelled} == set(scene.ids) - {first.id}
        assert trials.counts(session, scene.job.id, project=PROJECT) == {
            ("with", "search", "completed"): 1,
            ("with", "search", "cancelled"): 2,
        }


def test_lists_are_filtered(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        add_trials(session, scene.job.id, 2, arm="without")
        add_trials(session, scene.job.id, 1, phase="shortlist")
        claim(session, scene, limit=1)

    def n(**filters: object) -> int:
        with database.reading() as session:
            return len(trials.list_of(session, scene.job.id, project=PROJECT, **filters))  # type: ignore[arg-type]  # names of filters

    assert (n(), n(arm="without"), n(phase="shortlist")) == (6, 2, 1)
    assert (n(states=("running",)), n(states=("running", "waiting"), arm="with")) == (1, 4)


@pytest.mark.parametrize("descending", [False, True])
def test_pages_by_value_miss_and_double_nothing(database: Database, descending: bool) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=12)
        for place, row in enumerate(claim(session, scene, limit=8)):
            value = None if place == 3 else float(place // 2)  # ties, and one without a value
            trials.finish(session, row.id, 1, project=PROJECT, state="completed", value=value)

    def pages() -> list[TrialRow]:
        found: list[TrialRow] = []
        with database.reading() as session:
            while True:
                after = (found[-1].value, found[-1].id) if found else None
                page = trials.list_page(
                    session, scene.job.id, project=PROJECT, limit=5, order_by="value",
                    descending=descending, after=after,
                )  # fmt: skip
                if not page:
                    return found
                found += page

    values = [row.value for row in pages()]
    known = [0.0, 0.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert values == [*(known[::-1] if descending else known), *[None] * 5]
    assert {row.id for row in pages()} == set(scene.ids)


def test_pages_by_number_miss_nothing_while_trials_arrive(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=7)
    seen: list[TrialRow] = []
    for round in range(6):
        with database.writing() as session:
            after = (seen[-1].number, seen[-1].id) if seen else None
            seen += trials.list_page(session, scene.job.id, project=PROJECT, limit=4, after=after)
            if round < 3:
                add_trials(session, scene.job.id, 3, first=7 + 3 * round)
    assert [row.number for row in seen] == list(range(16))


def test_optuna_is_told_each_state_once(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        add_trials(session, scene.job.id, 1, phase="compare")
        first, *_ = claim(session, scene, limit=1)
        due = mirroring.unmirrored(session, scene.job.id, 2, project=PROJECT)
        assert [row.id for row in due] == scene.ids[:2]
        for row in mirroring.unmirrored(session, scene.job.id, 9, project=PROJECT):
            mirroring.set_mirrored(session, row.id, row.number, row.state, project=PROJECT)
        assert mirroring.unmirrored(session, scene.job.id, 9, project=PROJECT) == []
        trials.finish(session, first.id, 1, project=PROJECT, state="pruned")
        (due_again,) = mirroring.unmirrored(session, scene.job.id, 9, project=PROJECT)
    assert (due_again.id, due_again.optuna_id, due_again.mirrored) == (first.id, 0, "running")


def lose(session: Session, scene: Scene) -> None:
    leases.expire(session, scene.worker, project=PROJECT)


def test_a_trial_lost_twice_without_an_epoch_is_leased_alone(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=2)
        for _ in range(2):
            assert len(claim(session, scene)) == 2
            lose(session, scene)
        assert claim(session, scene) == []
        (alone,) = claim(session, scene, alone=True)
    assert (alone.attempt, alone.losses, alone.failures) == (3, 2, 0)


def test_an_epoch_between_two_losses_forgives_the_first(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=1)
        claim(session, scene)
        lose(session, scene)
        claim(session, scene)
        point = measured(scene.ids[0], 1, attempt=2)
        measurements.add_many(session, [point], project=PROJECT)
        lose(session, scene)
        (again,) = claim(session, scene)
    assert (again.attempt, again.losses) == (3, 1)


def test_a_trial_that_kills_its_process_fails_as_worker_lost(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=1)
        for n in range(5):
            assert trials.end_lost(session, scene.job.id, project=PROJECT) == []
            (row,) = claim(session, scene, alone=n >= 2)
            assert (row.attempt, row.failures) == (n + 1, max(0, n - 2))
            lose(session, scene)
        assert claim(session, scene) == claim(session, scene, alone=True) == []
        (ended,) = trials.end_lost(session, scene.job.id, project=PROJECT)
        assert trials.end_lost(session, scene.job.id, project=PROJECT) == []
    assert (ended.state, ended.reason, ended.failures) == ("failed", "worker-lost", 3)


def test_a_loss_alone_after_an_epoch_is_no_failure(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=1)
        for attempt in (1, 2):
            claim(session, scene, alone=attempt > 2)
            trials.requeue(session, scene.ids, project=PROJECT, failed=True)
        (row,) = claim(session, scene, alone=True)
        measurements.add_many(session, [measured(row.id, 1, attempt=3)], project=PROJECT)
        lose(session, scene)
        (again,) = claim(session, scene, alone=True)
    assert (again.failures, again.losses) == (2, 1)


def test_the_last_retry_of_a_failing_trial_is_alone(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=1)
        for _ in range(2):
            assert claim(session, scene, alone=True) == []
            claim(session, scene)
            trials.requeue(session, scene.ids, project=PROJECT, failed=True, reason="error")
        assert claim(session, scene) == []
        (row,) = claim(session, scene, alone=True)
    assert (row.failures, row.reason) == (2, "error")


def test_alone_takes_one_of_those_that_must_be(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=4)
        for _ in range(2):
            claim(session, scene)
            lose(session, scene)
        assert len(claim(session, scene, alone=True)) == 1
