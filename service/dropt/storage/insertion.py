"""Inserting what may already be there: the same statement on both databases."""

from sqlalchemy import Insert, Table
from sqlalchemy.dialects import postgresql, sqlite

from dropt.storage.session import Session


def insert_or_ignore(session: Session, table: Table) -> Insert:
    """An insert that leaves a row with the same unique key as it is.

    On PostgreSQL it waits for another transaction that inserts the same key.
    """
    if session.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()
