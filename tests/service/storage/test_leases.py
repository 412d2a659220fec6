"""The fence, and leases that expire, revive and close."""

import logging

import pytest
from tests.service.storage.rows import PROJECT, claim, measured, open_lease, set_scene

from dropt.errors import LeaseLost, NotFound
from dropt.spec.protocol import ReportAnswer
from dropt.storage import leases, measurements, trials
from dropt.storage.engine import Database


def test_report_of_the_current_attempt_passes_the_fence(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dropt.storage.leases")
    with database.writing() as session:
        claimed = claim(session, set_scene(session))
        leases.hold(session, [(row.id, 1) for row in claimed], project=PROJECT)
    assert caplog.messages == ["report.held"]


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_report_of_another_attempt_is_refused(database: Database, attempt: int) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        claim(session, scene)
        leases.expire(session, scene.worker, project=PROJECT)
        claim(session, scene)
        with pytest.raises(LeaseLost) as caught:
            leases.hold(session, [(scene.ids[0], attempt)], project=PROJECT)
    assert caught.value.lost == (scene.ids[0],)


def test_report_that_names_a_trial_under_two_attempts_is_refused(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        claim(session, scene)
        with pytest.raises(LeaseLost):
            leases.hold(session, [(scene.ids[0], 1), (scene.ids[0], 0)], project=PROJECT)


def test_report_on_a_trial_that_does_not_run_is_refused(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        first, second, third = claim(session, scene)
        trials.finish(session, first.id, 1, project=PROJECT, state="completed")
        trials.requeue(session, [second.id], project=PROJECT)
        pairs = [(row.id, 1) for row in (first, second, third)]
        with pytest.raises(LeaseLost) as caught:
            leases.hold(session, pairs, project=PROJECT)
    assert caught.value.lost == tuple(sorted([first.id, second.id]))


def test_refused_report_stores_nothing(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        claim(session, scene)

    def report() -> None:
        with database.writing() as session:
            measurements.add_many(session, [measured(scene.ids[0], 1)], project=PROJECT)
            leases.hold(session, [(scene.ids[0], 1), (scene.ids[1], 7)], project=PROJECT)

    with pytest.raises(LeaseLost):
        report()
    with database.reading() as session:
        assert measurements.curve(session, scene.ids[0], project=PROJECT) == []
        assert trials.get(session, scene.ids[0], project=PROJECT).epoch == 0


def test_an_empty_report_holds_nothing_and_passes(database: Database) -> None:
    with database.writing() as session:
        leases.hold(session, [], project=PROJECT)


def test_expired_lease_is_given_to_another_worker(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        claim(session, scene)
        leases.expire(session, scene.worker, project=PROJECT)
        worker, lease = open_lease(session, scene.job.id)
        taken = trials.claim(
            session, lease, worker, scene.job.id, "search", project=PROJECT, limit=9
        )
    assert [(row.attempt, row.losses, row.lease_id) for row in taken] == [(2, 1, lease)] * 3


def test_open_lease_keeps_its_trials_from_others(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        claim(session, scene)
        assert claim(session, scene) == []


def test_expired_lease_is_revived_by_its_own_renewal(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        claim(session, scene)
        leases.expire(session, scene.worker, project=PROJECT)
        assert leases.get(session, scene.lease, project=PROJECT).expires_in_s < 0
        renewed = leases.renew(session, [scene.lease], scene.worker, project=PROJECT, lease_s=12)
        assert renewed == {scene.lease}
        assert 10 < leases.get(session, scene.lease, project=PROJECT).expires_in_s <= 12
        assert claim(session, scene) == []
        leases.hold(session, [(id, 1) for id in scene.ids], project=PROJECT)


def test_a_lease_expires_by_the_clock_of_the_database(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        claim(session, scene)
        leases.renew(session, [scene.lease], scene.worker, project=PROJECT, lease_s=0.0)
        while leases.get(session, scene.lease, project=PROJECT).expires_in_s >= 0:
            pass
        assert [row.attempt for row in claim(session, scene)] == [2, 2, 2]


def test_only_its_own_worker_renews_a_lease(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        stranger, lease = open_lease(session, scene.job.id, name="gpu-8")
        assert leases.renew(session, [scene.lease], stranger, project=PROJECT) == set()
        both = [scene.lease, lease, "lea_unknown"]
        assert leases.renew(session, both, stranger, project=PROJECT) == {lease}


def test_a_closed_lease_is_neither_renewed_nor_closed_again(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        assert leases.list_open(session, project=PROJECT, worker_id=scene.worker)
        assert leases.close(session, scene.lease, project=PROJECT)
        assert not leases.close(session, scene.lease, project=PROJECT)
        assert leases.renew(session, [scene.lease], scene.worker, project=PROJECT) == set()
        assert leases.list_open(session, project=PROJECT, worker_id=scene.worker) == []


def test_a_discarded_lease_is_gone(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session)
        leases.discard(session, scene.lease, project=PROJECT)
        with pytest.raises(NotFound):
            leases.get(session, scene.lease, project=PROJECT)


def test_answers_are_stored_in_sequence(database: Database) -> None:
    answer = ReportAnswer(sequence=1, expires_in=30.0, stop=("trl_1",))
    with database.writing() as session:
        lease = set_scene(session).lease
        assert not leases.store_answer(session, lease, 2, "b" * 64, answer, project=PROJECT)
        assert leases.store_answer(session, lease, 1, "b" * 64, answer, project=PROJECT)
        assert not leases.store_answer(session, lease, 1, "b" * 64, answer, project=PROJECT)
    with database.reading() as session:
        row = leases.get(session, lease, project=PROJECT)
    assert (row.sequence, row.body_sha256, row.answer) == (1, "b" * 64, answer)


def test_a_worker_is_told_what_to_stop_to_drop_and_what_it_lost(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=5)
        first, second, third, fourth, fifth = (row.id for row in claim(session, scene))
        trials.request_stop(session, [second], project=PROJECT)
        trials.finish(session, fourth, 1, project=PROJECT, state="completed")
        trials.requeue(session, [fifth], project=PROJECT, lease_id=scene.lease)
        leases.expire(session, scene.worker, project=PROJECT)
        worker, lease = open_lease(session, scene.job.id, name="gpu-8")
        trials.claim(session, lease, worker, scene.job.id, "search", project=PROJECT, limit=1)
        leases.renew(session, [scene.lease], scene.worker, project=PROJECT)
        trials.cancel_open(session, scene.job.id, project=PROJECT)
        held, lost = leases.given_trials(session, scene.lease, project=PROJECT)
    assert [(row.id, row.state, row.stop_requested) for row in held] == [
        (second, "cancelled", True),
        (third, "cancelled", False),
    ]
    assert lost == [first]


def test_a_lease_that_gets_its_lost_trial_back_holds_the_new_attempt(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=1)
        claim(session, scene)
        leases.expire(session, scene.worker, project=PROJECT)
        claim(session, scene)
        held, lost = leases.given_trials(session, scene.lease, project=PROJECT)
    assert ([tuple(row) for row in held], lost) == ([(scene.ids[0], 2, "running", False)], [])
