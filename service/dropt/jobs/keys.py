"""What is done with keys: make, list, revoke, tell whose one is, open the session of a browser."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dropt.errors import FieldError, Forbidden, InvalidRequest, Unauthorized
from dropt.spec.keys import KeyMade, KeyRead, Scope, digest_of, handle_of, new_key
from dropt.storage import clock, keys, projects
from dropt.storage.engine import Database
from dropt.storage.keys import KeyRow

SESSION_S = 8 * 3600.0
NOBODY = "0" * 64  # the digest that is compared when there is no key of that handle
NEW_KEY = "dropt keys new"


@dataclass(frozen=True)
class Caller:
    """Who asks: a key, or anybody where no keys are asked for."""

    project: str
    scopes: frozenset[Scope]
    key_id: str | None = None  # of a key in the database
    is_session: bool = False

    def may(self, needs: frozenset[Scope]) -> bool:
        """Whether one of the scopes is among the caller's; an empty set asks for none."""
        return not needs or "admin" in self.scopes or bool(self.scopes & needs)


def make(
    database: Database, *, project: str, name: str, scopes: Sequence[Scope],
    expires_at: datetime | None = None,
) -> KeyMade:  # fmt: skip
    """A new key, whose text is told this once; the project is made with its first key.

    Raises:
        InvalidRequest: it would have expired already.
    """
    text, distinct = new_key(), tuple(dict.fromkeys(scopes))
    with database.writing() as session:
        if expires_at is not None and expires_at <= clock.now(session):
            message = "A key that has expired opens nothing; name a time to come."
            raise InvalidRequest.of(
                FieldError("/expires_at", "out-of-range", message, expires_at.isoformat())
            )
        projects.ensure(session, project)
        row = keys.insert(
            session, text, project=project, name=name, scopes=distinct, expires_at=expires_at
        )
    return KeyMade(**key_read(row).model_dump(), key=text)


def list_keys(
    database: Database, *, project: str, limit: int, after: tuple[datetime, str] | None = None
) -> list[KeyRead]:
    """The keys of a project that are not revoked, newest first."""
    with database.reading() as session:
        rows = keys.list_page(session, project=project, limit=limit, after=after)
    return [key_read(row) for row in rows]


def revoke(database: Database, key_id: str, *, project: str) -> None:
    """End a key now, and the sessions that were opened with it.

    Raises:
        NotFound: no such key in this project, or it was revoked before.
    """
    with database.writing() as session:
        keys.revoke(session, key_id, project=project)


def any_exist(database: Database) -> bool:
    """Whether a key was ever made: then keys are asked for."""
    with database.reading() as session:
        return keys.any_exist(session)


def identify(database: Database, text: str) -> Caller:
    """Whose key this is.

    A key is found by its handle, which is no secret. What proves it is compared as SHA-256 with
    `hmac.compare_digest`: neither the index nor the time of the comparison tells anything about
    the secret, and an unknown handle costs the same comparison.

    Raises:
        Unauthorized: it is none of ours, revoked or expired; its text is in no message.
    """
    return _caller(_proven(database, text))


def require_live(database: Database, caller: Caller) -> None:
    """Pass while the key of this caller is good.

    Raises:
        Unauthorized: it was revoked or has expired meanwhile.
    """
    assert caller.key_id is not None
    with database.reading() as session:
        if not keys.is_live(session, caller.key_id, project=caller.project):
            raise Unauthorized(f"This key was revoked or has expired; make a new one: {NEW_KEY}")


def note_use(database: Database, caller: Caller) -> None:
    """Note that the key of this caller is in use."""
    assert caller.key_id is not None
    with database.writing() as session:
        keys.note_use(session, caller.key_id, project=caller.project)


def open_session(database: Database, text: str) -> tuple[str, int]:
    """A session of a browser, which may read what the key may read, and its seconds.

    It ends with the key, after 8 hours at the latest.

    Raises:
        Unauthorized: the key is not good, or is itself a session.
        Forbidden: it may not read.
    """
    row = _proven(database, text)
    if row.parent is not None:
        raise Unauthorized("This is the session of a browser, not a key; give the key itself")
    if not _caller(row).may(frozenset({"jobs:read"})):
        raise Forbidden(
            f"This key may not read; make one that may: {NEW_KEY}",
            members={"needs": ["jobs:read"]},
        )
    session_text = new_key()
    with database.writing() as session:
        keys.forget_sessions(session)
        end = keys.end_at(session, row, SESSION_S)
        seconds = (end - clock.now(session)).total_seconds()
        keys.insert(
            session, session_text, project=row.project, name=f"browser of {row.handle}",
            scopes=("jobs:read",), expires_at=end, parent=row.id,
        )  # fmt: skip
    return session_text, int(seconds)


def close_session(database: Database, text: str) -> None:
    """End the session of a browser; one that has ended, or none, is fine."""
    try:
        row = _proven(database, text)
    except Unauthorized:
        return
    if row.parent is not None:
        revoke(database, row.id, project=row.project)


def key_read(row: KeyRow) -> KeyRead:
    """A key as it is answered."""
    return KeyRead(
        id=row.id, name=row.name, handle=row.handle, project=row.project, scopes=row.scopes,
        created_at=row.created_at, expires_at=row.expires_at, last_used_at=row.last_used_at,
    )  # fmt: skip


def _proven(database: Database, text: str) -> KeyRow:
    handle = handle_of(text)
    row = None
    if handle is not None:
        with database.reading() as session:
            row = keys.find(session, handle)
    expected = NOBODY if row is None else row.sha256
    is_same = hmac.compare_digest(digest_of(text), expected)
    if row is None or not is_same:
        raise Unauthorized(
            f"The key is not known here; the operator of the service makes one: {NEW_KEY}"
        )
    if row.state != "live":
        raise Unauthorized(f"Key dropt_{row.handle} is {row.state}; make a new one: {NEW_KEY}")
    return row


def _caller(row: KeyRow) -> Caller:
    return Caller(row.project, frozenset(row.scopes), row.id, is_session=row.parent is not None)
