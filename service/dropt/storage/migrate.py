"""Bring a database to the schema of this program, Optuna's tables included, in one locked step."""

import fcntl
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic import command
from sqlalchemy import Connection, Engine, make_url, text

from dropt.errors import SchemaMismatch
from dropt.storage import schema
from dropt.storage.engine import engine_options, make_engine, normal_url, optuna_url
from dropt.storage.schema import head

logger = logging.getLogger(__name__)

LOCK = 0x64726F7074  # "dropt": the advisory lock of migrations on PostgreSQL

__all__ = ["current", "downgrade", "head", "upgrade"]


def upgrade(url: str, to: str = "head") -> None:
    """Create or upgrade the database; processes that come at once do it one after the other.

    Raises:
        SchemaMismatch: a newer program wrote the database.
    """
    with _engine(url) as engine, _locked(engine):
        with engine.begin() as connection:
            found = schema.current(connection)
            if found is not None and not schema.is_known(found):
                raise SchemaMismatch(schema.newer(found))
            _run(connection, to, up=True)
        _prepare_optuna(optuna_url(url))
        logger.info("database.upgraded", extra={"from": found, "to": current(url)})


def downgrade(url: str, to: str) -> None:
    """Take the schema back to a revision, `base` for none; Optuna's tables stay."""
    with _engine(url) as engine, _locked(engine), engine.begin() as connection:
        _run(connection, to, up=False)


def current(url: str) -> str | None:
    """The revision of the database, None when it has no schema yet."""
    with _engine(url) as engine, engine.connect() as connection:
        return schema.current(connection)


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = make_engine(_with_folder(normal_url(url)), foreign_keys=False)
    try:
        yield engine
    finally:
        engine.dispose()


def _with_folder(url: str) -> str:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        Path(parsed.database or "").parent.mkdir(parents=True, exist_ok=True)
    return url


@contextmanager
def _locked(engine: Engine) -> Iterator[None]:
    """Hold the one lock of migrations: a file beside SQLite, an advisory lock on PostgreSQL."""
    if engine.dialect.name == "sqlite":
        with Path(f"{engine.url.database}.migrating").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        yield  # the lock goes with the connection, which `_engine` closes


def _run(connection: Connection, to: str, *, up: bool) -> None:
    config = schema.config()
    config.attributes["connection"] = connection
    (command.upgrade if up else command.downgrade)(config, to)


def _prepare_optuna(url: str) -> None:
    """Create Optuna's schema, or bring it to the version that is installed.

    Four processes that created it at once crashed in three cases.
    """
    from optuna.storages import RDBStorage  # 0.6 s that only this step pays

    if make_url(url).get_backend_name() == "sqlite":
        with closing(sqlite3.connect(make_url(url).database or "")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    storage = RDBStorage(url, engine_kwargs=engine_options(url), skip_compatibility_check=True)
    try:
        if storage.get_current_version() not in storage.get_all_versions():
            raise SchemaMismatch(
                f"Optuna's tables have schema {storage.get_current_version()}, which is newer "
                "than the installed Optuna; install the version that wrote them"
            )
        if storage.get_current_version() != storage.get_head_version():
            storage.upgrade()
    finally:
        storage.remove_session()
        storage.engine.dispose()
