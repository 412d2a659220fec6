"""Keys: who may ask. Rows stay when a key is revoked, so a service that had keys never reopens."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import sqlalchemy
from sqlalchemy import ColumnElement, and_, case, delete, exists, func, literal, select, update

from dropt.errors import NotFound
from dropt.spec.ids import new_id
from dropt.spec.keys import Scope, digest_of, handle_of
from dropt.storage.clock import now, now_expression
from dropt.storage.columns import UtcTime
from dropt.storage.session import Session
from dropt.storage.tables import api_key

KeyState = Literal["live", "revoked", "expired"]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key as it is stored, with what it is by the database's clock."""

    id: str
    project: str
    name: str
    handle: str
    sha256: str
    scopes: tuple[Scope, ...]
    parent: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    state: KeyState


def insert(
    session: Session,
    key: str,
    *,
    project: str,
    name: str,
    scopes: Sequence[Scope],
    expires_at: datetime | None = None,
    parent: str | None = None,
) -> KeyRow:
    """Store a new key, of whose text the SHA-256 alone is kept."""
    handle = handle_of(key)
    assert handle is not None  # made by `spec.keys.new_key`
    values = {
        "id": new_id("key"),
        "project": project,
        "name": name,
        "handle": handle,
        "sha256": digest_of(key),
        "scopes": tuple(scopes),
        "parent": parent,
        "created_at": now_expression(),
        "expires_at": expires_at,
    }
    added = sqlalchemy.insert(api_key).values(values).returning(*api_key.c, _STATE)
    return KeyRow(**session.execute(added).one()._asdict())


def find(session: Session, handle: str) -> KeyRow | None:
    """The key of that handle, in whatever state and of whatever project."""
    row = session.execute(_READ.where(api_key.c.handle == handle)).one_or_none()
    return None if row is None else KeyRow(**row._asdict())


def is_live(session: Session, key_id: str, *, project: str) -> bool:
    """Whether the key is neither revoked nor expired."""
    wanted = (api_key.c.id == key_id, api_key.c.project == project)
    return session.scalars(select(_STATE).where(*wanted)).one_or_none() == "live"


def any_exist(session: Session) -> bool:
    """Whether a key was ever made, of whatever project; revoked ones count."""
    return session.scalars(select(exists().select_from(api_key))).one()


def list_page(
    session: Session, *, project: str, limit: int, after: tuple[datetime, str] | None = None
) -> list[KeyRow]:
    """At most `limit` keys that are not revoked, newest first, without sessions of browsers.

    `after` is (created_at, id) of the last one.
    """
    wanted = (api_key.c.project == project, api_key.c.parent.is_(None))
    query = _READ.where(*wanted, api_key.c.revoked_at.is_(None))
    if after is not None:
        at, id = literal(after[0], UtcTime), after[1]
        is_older = api_key.c.created_at < at
        query = query.where(is_older | and_(api_key.c.created_at == at, api_key.c.id < id))
    rows = session.execute(
        query.order_by(api_key.c.created_at.desc(), api_key.c.id.desc()).limit(limit)
    )
    return [KeyRow(**row._asdict()) for row in rows]


def revoke(session: Session, key_id: str, *, project: str) -> None:
    """End a key, and the sessions that were opened with it.

    Raises:
        NotFound: no such key, another project's, or it is revoked already.
    """
    family = (api_key.c.id == key_id) | (api_key.c.parent == key_id)
    ended = (
        update(api_key)
        .where(family, api_key.c.project == project, api_key.c.revoked_at.is_(None))
        .values(revoked_at=now_expression())
        .returning(api_key.c.id)
    )
    if key_id not in session.scalars(ended).all():
        raise NotFound(f"No key {key_id}")


def note_use(session: Session, key_id: str, *, project: str) -> None:
    """Note that a key is used."""
    wanted = (api_key.c.id == key_id, api_key.c.project == project)
    session.execute(update(api_key).where(*wanted).values(last_used_at=now_expression()))


def end_at(session: Session, parent: KeyRow, seconds: float) -> datetime:
    """The time in `seconds`, by the database's clock, but not after the end of the parent."""
    end = now(session) + timedelta(seconds=seconds)
    return end if parent.expires_at is None else min(end, parent.expires_at)


def forget_sessions(session: Session) -> None:
    """Remove the sessions of all projects that have ended: keys stay, sessions are many."""
    over = api_key.c.revoked_at.is_not(None) | (api_key.c.expires_at <= now_expression())
    session.execute(delete(api_key).where(api_key.c.parent.is_not(None), over))


def _state() -> ColumnElement[str]:
    return case(
        (api_key.c.revoked_at.is_not(None), "revoked"),
        (func.coalesce(api_key.c.expires_at <= now_expression(), sqlalchemy.false()), "expired"),
        else_="live",
    )


_STATE = _state().label("state")
_READ = select(api_key, _STATE)
