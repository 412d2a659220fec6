"""Idempotency keys: the answer is stored in the transaction that does the work."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update

from dropt.errors import IdempotencyKeyReused
from dropt.storage.clock import now, now_expression
from dropt.storage.insertion import insert_or_ignore
from dropt.storage.session import Session
from dropt.storage.tables import idempotency

KEPT_H = 24


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What was answered the first time."""

    status: int
    headers: dict[str, str]
    answer: Any


def reserve(
    session: Session, path: str, key: str, body_sha256: str, *, project: str
) -> StoredAnswer | None:
    """The first answer to this key; None makes the caller the first, who does the work.

    A second sender waits here until the transaction of the first has ended. The first calls
    `store` before it commits; a reservation without an answer is the next sender's.

    Raises:
        IdempotencyKeyReused: the key came with another body.
    """
    _forget_old(session, _is(path, key, project))
    start = insert_or_ignore(session, idempotency).values(
        project=project,
        path=path,
        key=key,
        body_sha256=body_sha256,
        status=0,
        headers={},
        created_at=now_expression(),
    )
    session.execute(start)
    return _read(session, path, key, body_sha256, project=project, locked=True)


def find(
    session: Session, path: str, key: str, body_sha256: str, *, project: str
) -> StoredAnswer | None:
    """The first answer to this key, None when there is none; reserves nothing.

    Raises:
        IdempotencyKeyReused: the key came with another body.
    """
    return _read(session, path, key, body_sha256, project=project, locked=False)


def store(
    session: Session,
    path: str,
    key: str,
    body_sha256: str,
    status: int,
    headers: Mapping[str, str],
    answer: object,
    *,
    project: str,
) -> None:
    """Store the answer to a reserved key; commit it together with the work."""
    session.execute(
        update(idempotency)
        .where(*_is(path, key, project), idempotency.c.body_sha256 == body_sha256)
        .values(status=status, headers=dict(headers), answer=answer)
    )


def forget_old(session: Session) -> None:
    """Remove the keys of all projects that are older than a day."""
    _forget_old(session, ())


def _read(
    session: Session, path: str, key: str, body_sha256: str, *, project: str, locked: bool
) -> StoredAnswer | None:
    query = select(idempotency).where(*_is(path, key, project))
    row = session.execute(query.with_for_update() if locked else query).one_or_none()
    if row is None:
        return None
    if row.body_sha256 != body_sha256:
        raise IdempotencyKeyReused(
            f"the Idempotency-Key '{key[:64]}' came with another body within {KEPT_H} hours; "
            "take a new key for new work"
        )
    return None if row.status == 0 else StoredAnswer(row.status, row.headers, row.answer)


def _is(path: str, key: str, project: str) -> tuple[ColumnElement[bool], ...]:
    return (
        idempotency.c.path == path,
        idempotency.c.key == key,
        idempotency.c.project == project,
    )


def _forget_old(session: Session, which: tuple[ColumnElement[bool], ...]) -> None:
    horizon = now(session) - timedelta(hours=KEPT_H)
    session.execute(delete(idempotency).where(*which, idempotency.c.created_at < horizon))
