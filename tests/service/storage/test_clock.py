"""The database's clock."""

import time
from datetime import UTC, datetime, timedelta

from dropt.storage import clock
from dropt.storage.engine import Database


def test_now_and_epoch_now_are_the_same_clock(database: Database) -> None:
    with database.reading() as session:
        moment, seconds = clock.now(session), clock.epoch_now(session)
    assert moment.tzinfo is UTC
    assert abs(moment.timestamp() - seconds) < 1
    assert abs(datetime.now(UTC) - moment) < timedelta(seconds=10)


def test_the_clock_goes_on_inside_a_transaction(database: Database) -> None:
    deadline = time.monotonic() + 60
    with database.writing() as session:
        at, seconds = clock.now(session), clock.epoch_now(session)
        while clock.now(session) == at or clock.epoch_now(session) == seconds:
            assert time.monotonic() < deadline
        assert clock.now(session) > at
        assert clock.epoch_now(session) > seconds
