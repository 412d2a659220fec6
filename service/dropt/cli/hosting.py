"""The service and its workers in one process tree: what `dropt serve` and `dropt run` start.

The main thread starts and watches the workers, because the signal that ends a child follows the
thread that made it; the HTTP server runs in a second thread.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from dropt.cli.workers import Workers, require_trainer
from dropt.errors import DroptError, Internal, PortInUse, SchemaMismatch
from dropt.settings import Settings
from dropt.spec.keys import SCOPES, new_key

logger = logging.getLogger(__name__)

TICK_S = 0.25
GRACE_S = 3  # for answers under way when the service ends; a long-poll is cut, its worker retries
ADDRESS_FILE, KEY_FILE = "address", "key"
LOCAL_KEY = "DROPT_LOCAL_KEY"  # from `dropt run` to its service, the one variable of theirs
BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; 0 takes a free port.

    Raises:
        PortInUse: another program has it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"Port {port} of {host} cannot be used ({error.strerror}). Choose another with "
            "--port, or stop the program that listens there."
        ) from error
    listener.listen(BACKLOG)
    return listener


def address_of(listener: socket.socket) -> str:
    """The base URL of the service behind a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def known_address(state: Path) -> str | None:
    """Where the service of a state folder listens, if it wrote so; it may have died since."""
    with suppress(OSError):
        return (state / ADDRESS_FILE).read_text("utf-8").strip() or None
    return None


def local_key(state: Path) -> str | None:
    """The key of the service that runs on a state folder, for those who may read that folder."""
    with suppress(OSError):
        return (state / KEY_FILE).read_text("utf-8").strip() or None
    return None


@contextmanager
def hosted(
    settings: Settings, listener: socket.socket, *, n_workers: int, offers: Sequence[str] = (),
    key: str | None = None,
) -> Iterator["Host"]:  # fmt: skip
    """The service behind `listener` with its workers, ended in order when the block ends.

    A new database is created; one of another version is refused. `offers` are options of the
    workers for what they have of the user's own. `key` may do everything here; without one, a
    new one may. It dies with the service, and is in a file of the state folder meanwhile.

    Raises:
        StateInUse: another process has the state folder.
        SchemaMismatch: the database belongs to another version.
        KeyNeeded: other machines could reach it, and nobody has a key.
        WorkerMissing: workers are asked for, the trainer is not installed.
    """
    from dropt.storage.engine import own_state  # SQLAlchemy: 0.3 s

    if n_workers:
        require_trainer()
    with ExitStack() as stack:
        stack.enter_context(own_state(settings.state))
        prepare_database(settings.database_url)
        host = Host(settings, listener, n_workers=n_workers, offers=offers, key=key or new_key())
        stack.callback(host.stop)
        host.start()
        yield host


def prepare_database(url: str) -> None:
    """Create the schema of a database that has none."""
    from dropt.storage import migrate

    try:
        if migrate.current(url) is None:
            migrate.upgrade(url)
    except ValueError as error:
        raise SchemaMismatch(f"{error}") from error


class Host:
    """One service and its workers."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        *,
        n_workers: int,
        offers: Sequence[str] = (),
        key: str,
    ) -> None:
        import uvicorn

        from dropt.api.app import create_app
        from dropt.api.guard import OwnKey
        from dropt.storage.engine import Database

        self.address = address_of(listener)
        self._settings = settings
        self._listener = listener
        self._database = Database.open(settings.database_url)
        self._key, worker_key = key, new_key()
        config = uvicorn.Config(
            create_app(settings, [OwnKey.of(key, *SCOPES), OwnKey.of(worker_key, "worker")]),
            log_config=None, access_log=False, server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._workers = Workers(
            n_workers, server=self.address, key=worker_key, log_dir=settings.state / "log",
            on_end=self._expire_leases, offers=offers,
        )  # fmt: skip

    def start(self) -> None:
        (self._settings.state / "log").mkdir(parents=True, exist_ok=True)
        self._write_key()
        self._thread.start()
        self._address_file.write_text(self.address + "\n", "utf-8")

    def watch(self, until: threading.Event) -> None:
        """Tend the workers until the event is set.

        Raises:
            Internal: the HTTP server has ended by itself.
            WorkerMissing: no worker can be started.
        """
        while not until.wait(TICK_S):
            self._workers.tend()
            if not self._thread.is_alive():
                raise Internal("The service ended by itself; its log says why.")

    def stop(self) -> None:
        """Workers first: they give their work back to a service that still answers."""
        self._workers.stop()
        self._server.should_exit = True
        self._thread.join(GRACE_S + 2)
        self._database.close()
        for file in (self._address_file, self._key_file):
            with suppress(OSError):
                file.unlink()

    @property
    def _address_file(self) -> Path:
        return self._settings.state / ADDRESS_FILE

    @property
    def _key_file(self) -> Path:
        return self._settings.state / KEY_FILE

    def _write_key(self) -> None:
        """Only the user of this process may read it; a file of one that was killed is replaced."""
        self._key_file.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(self._key_file, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(self._key + "\n")

    def _serve(self) -> None:
        self._server.run(sockets=[self._listener])

    def _expire_leases(self, name: str) -> bool:
        """Let the leases of a worker that died end now; whether it had come as far as to register.

        They are lost, not given back: a trial that kills its worker must not be leased for ever.
        """
        from dropt.storage import leases, projects, workers

        try:
            with self._database.writing() as session:
                found = workers.named(session, name, project=projects.DEFAULT)
                for worker_id in found:
                    leases.expire(session, worker_id, project=projects.DEFAULT)
        except DroptError as error:
            logger.warning("leases.not_expired", extra={"worker": name, "why": error.detail})
            return True  # not known to have failed at its start
        return bool(found)


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    event = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            os._exit(128 + number)
        event.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """The child of `dropt run`: serve behind an inherited socket, report failures as a line."""
    import json

    from dropt.cli.logs import log_to

    descriptor, state, n_workers = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    log_to(state / "log" / "service.log")
    try:
        with (
            stopped_by_signals() as stop,
            hosted(
                Settings(state=state),
                socket.socket(fileno=descriptor),
                n_workers=n_workers,
                offers=sys.argv[4:],
                key=os.environ.pop(LOCAL_KEY, None),
            ) as host,
        ):
            host.watch(stop)
    except DroptError as error:
        print(json.dumps({"code": error.code, "detail": error.detail}), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
