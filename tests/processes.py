"""Real processes for tests: a service with its workers, and single workers, that can be killed."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dropt.client import Client
from dropt.errors import DroptError, Internal
from dropt.spec.results import JobRead

BIN = Path(sys.executable).parent
DEADLINE_S = 600.0  # of what takes seconds: the machine may be slow, and busy with other tests
SHORT_LEASES = {"DROPT_LEASE_SECONDS": "6", "DROPT_HEARTBEAT_SECONDS": "1"}
N_LAST = 5  # events, and lines of a log, that a failure tells


class Service:
    """`dropt serve` as a child, on a free port that it writes into its state folder.

    It is there when it answers and all its workers have registered: before that it knows no
    model, and refuses jobs after a while.
    """

    def __init__(
        self, state: Path, *arguments: str, workers: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        state.mkdir(parents=True, exist_ok=True)
        self.state = state
        self._n_workers = workers
        self._address = state / "address"
        self._address.unlink(missing_ok=True)
        self._log = (state / "test.log").open("ab")
        self.process = subprocess.Popen(
            [BIN / "dropt", "serve", "--port", "0", "--state", state, "--workers", str(workers),
             *arguments],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        try:
            until(
                self._is_up, what="the service and its workers", alive=self.process,
                known=self._last_lines,
            )  # fmt: skip
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        return self._address.read_text().strip()

    def client(self) -> Client:
        return Client(self.url)

    def kill(self) -> None:
        """As a power cut: nothing is tidied up, its workers die with it."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        self._log.close()

    def stop(self) -> int:
        """In order; the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self.kill()

    def _is_up(self) -> bool:
        if not self._address.exists() or not self.url:
            return False
        mine = f"-{self.process.pid}-"  # a service before this one may have left others
        try:
            with self.client() as client:
                workers = [one for one in client.list_workers() if mine in one.name]
        except DroptError:
            return False
        return len([one for one in workers if one.state == "live"]) >= self._n_workers

    def _last_lines(self) -> str:
        lines = (self.state / "test.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-N_LAST:])


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
        ["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    return [
        int(pid)
        for pid, parent, command in rows
        if int(parent) == service.process.pid and "dropt_trainer" in command
    ]


def finished(client: Client, job_id: str) -> JobRead:
    """Wait for the end of a job, whatever its service goes through meanwhile."""
    seen: list[JobRead] = []

    def is_done() -> bool:
        try:
            seen[:] = [client.get_job(job_id, wait_s=5)]
        except DroptError as error:
            if error.status < Internal.status:
                raise
            return False
        return seen[0].done

    until(is_done, what="the job to end", known=lambda: _course(client, job_id))
    return seen[0]


def until(
    holds: Callable[[], bool],
    *,
    what: str,
    alive: subprocess.Popen[bytes] | None = None,
    known: Callable[[], str] = str,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Wait for a condition; fail when it does not come or the process that brings it has ended.

    A failure tells what is `known` by then.
    """
    end = time.monotonic() + deadline_s
    while not holds():
        if alive is not None and alive.poll() is not None:
            raise AssertionError(
                f"waiting for {what}: the process ended with {alive.returncode}\n{known()}"
            )
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s} s for {what}\n{known()}")
        time.sleep(0.05)


def _course(client: Client, job_id: str) -> str:
    """Where a job is, its trials by phase and state, the workers, and the last events."""
    job = client.get_job(job_id)
    trials = Counter((one.phase, one.state) for one in client.iterate_trials(job_id))
    workers = [(one.name, one.state) for one in client.list_workers()]
    events = list(client.iterate_events(job_id))[-N_LAST:]
    parts = [f"{job.state}, {job.phase}: {job.reason}", f"{trials}", f"{workers}"]
    return "\n".join([*parts, *(f"{one.type} {one.trial} {one.data}" for one in events)])
