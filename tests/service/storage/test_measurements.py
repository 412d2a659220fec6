"""Measurements: appended, never changed; a curve takes the highest attempt."""

import pytest
from tests.service.storage.rows import PROJECT, claim, measured, set_scene

from dropt.errors import InvalidRequest
from dropt.storage import leases, measurements, trials
from dropt.storage.engine import Database


def test_measurements_move_their_trials_on(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=2)
        claim(session, scene)
        first, second = scene.ids
        batch = [measured(first, 1), measured(second, 1), measured(first, 2)]
        measurements.add_many(session, batch, project=PROJECT)
        rows = [trials.get(session, id, project=PROJECT) for id in scene.ids]
    assert [(row.epoch, row.seconds) for row in rows] == [(2, 0.5), (1, 0.25)]


def test_a_curve_takes_the_highest_attempt_of_each_epoch(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=1)
        id = scene.ids[0]
        claim(session, scene)
        old = [measured(id, epoch, loss=epoch) for epoch in (1, 2, 3)]
        measurements.add_many(session, old, project=PROJECT)
        leases.expire(session, scene.worker, project=PROJECT)
        claim(session, scene)
        new = [measured(id, epoch, attempt=2, loss=10 * epoch) for epoch in (2, 1)]
        measurements.add_many(session, new, project=PROJECT)
        points = measurements.curve(session, id, project=PROJECT)
        used = measurements.consumed(session, scene.job.id, project=PROJECT)
    assert [(p.epoch, p.attempt, p.validation_loss) for p in points] == [
        (1, 2, 10.0), (2, 2, 20.0), (3, 1, 3.0),
    ]  # fmt: skip
    assert points[0].metrics == {"accuracy": 0.9}
    assert used == {("with", "search"): (5, 1.25)}


def test_an_epoch_measured_twice_in_an_attempt_is_refused(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=1)
        measurements.add_many(session, [measured(scene.ids[0], 1)], project=PROJECT)
    again = [measured(scene.ids[0], 2), measured(scene.ids[0], 1, loss=9.0)]
    with pytest.raises(InvalidRequest), database.writing() as session:
        measurements.add_many(session, again, project=PROJECT)
    with database.reading() as session:
        (point,) = measurements.curve(session, scene.ids[0], project=PROJECT)
    assert point.validation_loss == 0.5


@pytest.mark.slow
def test_the_largest_report_is_one_batch(database: Database) -> None:
    with database.writing() as session:
        id = set_scene(session, n_trials=1).ids[0]
        batch = [measured(id, epoch) for epoch in range(1, 5001)]
        measurements.add_many(session, batch, project=PROJECT)
        assert trials.get(session, id, project=PROJECT).epoch == 5000
        measurements.add_many(session, [], project=PROJECT)


def test_a_decision_at_a_rung_stays(database: Database) -> None:
    with database.writing() as session:
        scene = set_scene(session, n_trials=3)

        def decide(place: int, value: float) -> bool:
            return measurements.add_rung(
                session, scene.ids[place], 9, project=PROJECT, job_id=scene.job.id, arm="with",
                value=value, decision="go_on",
            )  # fmt: skip

        assert [decide(0, 0.5), decide(1, 0.25), decide(0, 9.0)] == [True, True, False]
        found = measurements.rung_values(session, scene.job.id, "with", 9, project=PROJECT)
        assert found == [(scene.ids[0], 0.5), (scene.ids[1], 0.25)]
        assert measurements.rung_values(session, scene.job.id, "with", 3, project=PROJECT) == []
