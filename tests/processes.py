"""Real processes for tests: a service with its workers, and single workers, that can be killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dropt.client import Client
from dropt.errors import DroptError

BIN = Path(sys.executable).parent
DEADLINE_S = 120.0
FAST = {"DROPT_LEASE_SECONDS": "3", "DROPT_HEARTBEAT_SECONDS": "1"}


class Service:
    """`dropt serve` as a child, on a free port that it writes into its state folder."""

    def __init__(
        self, state: Path, *arguments: str, workers: int = 1,
        environment: Mapping[str, str] = FAST,
    ) -> None:  # fmt: skip
        state.mkdir(parents=True, exist_ok=True)
        self.state = state
        self._address = state / "address"
        self._address.unlink(missing_ok=True)
        self._log = (state / "test.log").open("ab")
        self.process = subprocess.Popen(
            [BIN / "dropt", "serve", "--port", "0", "--state", state, "--workers", str(workers),
             *arguments],
            stdout=self._log, stderr=self._log, env={**os.environ, **environment},
        )  # fmt: skip
        until(self._is_up, what="the service to answer", alive=self.process)

    @property
    def url(self) -> str:
        return self._address.read_text().strip()

    def client(self) -> Client:
        return Client(self.url)

    def kill(self) -> None:
        """As a power cut: nothing is tidied up, its workers die with it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self._log.close()

    def stop(self) -> int:
        """In order; the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(30)
        self._log.close()
        return status

    def _is_up(self) -> bool:
        if not self._address.exists() or not self.url:
            return False
        try:
            with self.client() as client:
                client.version()
        except DroptError:
            return False
        return True


@contextmanager
def serving(state: Path, *arguments: str, workers: int = 1) -> Iterator[Service]:
    """A service that ends with the block."""
    service = Service(state, *arguments, workers=workers)
    try:
        yield service
    finally:
        service.stop()


def worker_pids(service: Service) -> list[int]:
    """The worker processes of a service: its descendants that run the trainer."""
    listing = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    return [
        int(pid)
        for pid, parent, command in rows
        if int(parent) == service.process.pid and "dropt_trainer" in command
    ]


def until(
    holds: Callable[[], bool],
    *,
    what: str,
    alive: subprocess.Popen[bytes] | None = None,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Wait for a condition; fail when it does not come or the process that brings it has ended."""
    end = time.monotonic() + deadline_s
    while not holds():
        if alive is not None and alive.poll() is not None:
            raise AssertionError(f"waiting for {what}: the process ended with {alive.returncode}")
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s} s for {what}")
        time.sleep(0.05)
