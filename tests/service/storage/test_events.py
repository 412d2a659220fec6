"""Events: numbered without gaps, listed by number and type."""

import pytest
from tests.service.storage.rows import PROJECT, add_job

from dropt.errors import NotFound
from dropt.storage import events
from dropt.storage.engine import Database


def test_events_count_from_one_within_their_job(database: Database) -> None:
    with database.writing() as session:
        first, second = add_job(session).id, add_job(session).id
        numbers = [
            events.record(session, job, "job.moved", project=PROJECT)
            for job in (first, second, first)
        ]
    assert numbers == [1, 1, 2]


def test_an_event_is_read_back_with_its_data(database: Database) -> None:
    with database.writing() as session:
        job = add_job(session).id
        events.record(session, job, "job.queued", project=PROJECT)
        events.record(
            session, job, "trial.claimed", project=PROJECT, trial="trl_1", attempt=2,
            lease="lea_1", rates={"hidden": 0.3},
        )  # fmt: skip
        (read,) = events.list_after(session, job, project=PROJECT, after=1, limit=9)
    assert (read.sequence, read.type, read.job) == (2, "trial.claimed", job)
    assert (read.trial, read.attempt) == ("trl_1", 2)
    assert read.data == {"lease": "lea_1", "rates": {"hidden": 0.3}}


def test_events_are_filtered_by_type_and_limited(database: Database) -> None:
    with database.writing() as session:
        job = add_job(session).id
        for number in range(6):
            events.record(session, job, ("even", "odd")[number % 2], project=PROJECT)
        odd = events.list_after(session, job, project=PROJECT, types=("odd",), limit=2)
    assert [one.sequence for one in odd] == [2, 4]


def test_a_rolled_back_event_leaves_no_gap(database: Database) -> None:
    with database.writing() as session:
        job = add_job(session).id

    def fail_after_an_event() -> None:
        with database.writing() as session:
            assert events.record(session, job, "never", project=PROJECT) == 1
            events.record(session, "job_unknown", "x", project=PROJECT)

    with pytest.raises(NotFound):
        fail_after_an_event()
    with database.writing() as session:
        assert events.record(session, job, "first", project=PROJECT) == 1


def test_an_event_needs_its_job(database: Database) -> None:
    with database.writing() as session, pytest.raises(NotFound):
        events.record(session, "job_unknown", "x", project=PROJECT)
