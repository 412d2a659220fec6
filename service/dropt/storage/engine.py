"""Connections: one `Database` per process, with transactions that read and that write."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dropt.errors import DroptError, NotReady, StateInUse, StorageFull
from dropt.storage import schema
from dropt.storage.session import Session

Dialect = Literal["sqlite", "postgresql"]

BUSY_TIMEOUT_S = 30  # SQLite waits so long for the writer before it
CONNECT_TIMEOUT_S = 3
TCP_USER_TIMEOUT_MS = 3000  # without it a call on a cut network still hung after 20 s
N_CONNECTIONS, N_MORE = 10, 30  # together the size of the thread pool that runs the routes


class Database:
    """The connections of one process, SQLite or PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.url = normal_url(url)
        self.engine = make_engine(self.url)
        self.dialect: Dialect = "sqlite" if self.engine.dialect.name == "sqlite" else "postgresql"
        self._reader, self._writer = _options(self.engine)

    @classmethod
    def open(cls, url: str, *, check_schema: bool = True) -> "Database":
        """The database behind `url`.

        Raises:
            SchemaMismatch: its schema is older or newer than this program's.
            NotReady: nothing answers there.
        """
        database = cls(url)
        if check_schema:
            try:
                with _in_our_words(), database._reader.connect() as connection:
                    schema.check(connection)
            except DroptError:
                database.close()
                raise
        return database

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one state of the database and changes nothing."""
        with _in_our_words(), self._reader.connect() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that commits at its end and rolls back on any exception."""
        with _in_our_words(), self._writer.begin() as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


def sqlite_url(state_dir: Path) -> str:
    """The database of a state folder."""
    return f"sqlite:///{state_dir / 'dropt.db'}"


def optuna_url(url: str) -> str:
    """Where Optuna keeps its studies: a second SQLite file, or the same PostgreSQL database.

    One SQLite file for both deadlocks with itself: a tell holds our row while Optuna writes.
    """
    parsed = make_url(normal_url(url))
    if parsed.get_backend_name() == "sqlite":
        parsed = parsed.set(database=str(Path(parsed.database or "").with_name("optuna.db")))
    return parsed.render_as_string(hide_password=False)


def normal_url(url: str) -> str:
    """The URL with the one driver that we use for each database.

    Raises:
        ValueError: another database, or SQLite in memory.
    """
    parsed = make_url(url)
    name = {"postgres": "postgresql"}.get(parsed.get_backend_name(), parsed.get_backend_name())
    if name not in ("sqlite", "postgresql"):
        raise ValueError(f"the database must be sqlite or postgresql, received {name}")
    if name == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError("SQLite needs a file: sqlite:////path/to/dropt.db")
    driver = "sqlite" if name == "sqlite" else "postgresql+psycopg"
    return parsed.set(drivername=driver).render_as_string(hide_password=False)


def make_engine(url: str, *, foreign_keys: bool = True) -> Engine:
    """An engine; `foreign_keys` are off in migrations alone, which rebuild tables on SQLite."""
    serialize = partial(json.dumps, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    engine = create_engine(url, json_serializer=serialize, **engine_options(url))
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine, foreign_keys=foreign_keys)
    return engine


def engine_options(url: str) -> dict[str, Any]:
    """Arguments of `create_engine`, for our tables and for Optuna's alike."""
    if make_url(url).get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
    connect = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": TCP_USER_TIMEOUT_MS,
        "keepalives": 1,
        "keepalives_idle": 3,
        "keepalives_interval": 1,
        "keepalives_count": 3,
    }
    return {
        "connect_args": connect,
        "pool_pre_ping": True,
        "pool_size": N_CONNECTIONS,
        "max_overflow": N_MORE,
    }


@contextmanager
def own_state(state_dir: Path) -> Iterator[None]:
    """Own a state folder while the block runs: SQLite has one service process.

    A lock, not a file with a process id, because the lock dies with its process.

    Raises:
        StateInUse: another process owns the folder.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "dropt.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise StateInUse(
                f"{state_dir} is in use by process {file.read().strip() or 'unknown'}; "
                "stop it, or choose another folder with --state"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _options(engine: Engine) -> tuple[Engine, Engine]:
    """The engine for transactions that read, and the one for those that write."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(dropt_reads=True), engine
    reads = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    return engine.execution_options(**reads), engine


def _prepare_sqlite(engine: Engine, *, foreign_keys: bool) -> None:
    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late and is deferred
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("dropt_reads"):
            connection.exec_driver_sql("PRAGMA query_only = ON")
            connection.exec_driver_sql("BEGIN")
        else:  # a deferred BEGIN let 8 processes claim 200 trials 286 times
            connection.exec_driver_sql("PRAGMA query_only = OFF")
            connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Turn faults of the database into our errors; those of a statement stay as they are."""
    try:
        yield
    except PoolTimeout as error:
        raise NotReady("All connections to the database are in use") from error
    except DBAPIError as error:
        raise _reason(error) or error from error.orig


def _reason(error: DBAPIError) -> DroptError | None:
    """What the fault means; None when the statement itself is wrong."""
    name = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None)
    if name in ("SQLITE_FULL", "53100"):  # PostgreSQL: disk_full
        return StorageFull("The database has no room; free some space, then the work goes on")
    if name in ("SQLITE_ERROR", "SQLITE_READONLY"):
        return None
    if name in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        return NotReady(f"The file is not a database, or it is damaged: {error.orig}")
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return NotReady(f"The database does not answer: {str(error.orig).splitlines()[0]}")
    return None
