"""Idempotency keys: one answer for a key and a body."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from tests.service.storage.rows import PROJECT

from dropt.errors import IdempotencyKeyReused
from dropt.storage import clock, idempotency
from dropt.storage.engine import Database
from dropt.storage.idempotency import StoredAnswer
from dropt.storage.session import Session
from dropt.storage.tables import idempotency as table

BODY = "b" * 64


def reserve(session: Session, key: str = "k", body: str = BODY) -> StoredAnswer | None:
    return idempotency.reserve(session, "/v1/jobs", key, body, project=PROJECT)


def answer(session: Session, key: str = "k") -> None:
    idempotency.store(
        session, "/v1/jobs", key, BODY, 202, {"Location": "/v1/jobs/1"}, {"id": "1"},
        project=PROJECT,
    )  # fmt: skip


def test_the_first_answer_is_given_again(database: Database) -> None:
    with database.writing() as session:
        assert reserve(session) is None
        answer(session)
    expected = StoredAnswer(202, {"Location": "/v1/jobs/1"}, {"id": "1"})
    with database.writing() as session:
        assert reserve(session) == expected
        assert reserve(session, "another") is None
    with database.reading() as session:
        assert idempotency.find(session, "/v1/jobs", "k", BODY, project=PROJECT) == expected
        assert idempotency.find(session, "/v1/leases", "k", BODY, project=PROJECT) is None


def test_a_key_with_another_body_is_refused(database: Database) -> None:
    with database.writing() as session:
        reserve(session)
        answer(session)
        with pytest.raises(IdempotencyKeyReused, match="'k'"):
            reserve(session, body="c" * 64)
        with pytest.raises(IdempotencyKeyReused):
            idempotency.find(session, "/v1/jobs", "k", "c" * 64, project=PROJECT)


def test_a_reservation_that_was_rolled_back_or_not_answered_is_free(database: Database) -> None:
    def fail_after_reserving() -> None:
        with database.writing() as session:
            assert reserve(session) is None
            reserve(session, body="c" * 64)

    with pytest.raises(IdempotencyKeyReused):
        fail_after_reserving()
    with database.writing() as session:
        assert reserve(session) is None
    with database.writing() as session:
        assert reserve(session) is None


def test_a_key_is_free_again_after_a_day(database: Database) -> None:
    with database.writing() as session:
        for key in ("k", "other"):
            reserve(session, key)
            answer(session, key)
        at = clock.now(session) - timedelta(hours=24, seconds=1)
        session.execute(update(table).values(created_at=at))
        assert reserve(session, body="c" * 64) is None
        idempotency.forget_old(session)
        assert idempotency.find(session, "/v1/jobs", "other", BODY, project=PROJECT) is None
