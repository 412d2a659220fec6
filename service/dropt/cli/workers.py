"""The worker processes of this host: started, watched, started again when they die."""

import importlib.util
import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dropt.cli.child import spawn
from dropt.cli.problems import WorkerMissing

logger = logging.getLogger(__name__)

MODULE = "dropt_trainer.cli"
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0  # before a dead worker is started again
HOPELESS = 4  # starts in a row of which none came as far as to register
DRAIN_S = 20.0  # what a worker may take to give its work back (02, 9.6)
MAX_AUTO = 8
DEVICES = Path("/dev")


def require_trainer() -> None:
    """Raise WorkerMissing when no worker can be started by this installation."""
    if importlib.util.find_spec("torch") is None:
        raise WorkerMissing(
            "Training needs PyTorch, which is not installed here. "
            "Install it with: pip install 'dropt[trainer]'"
        )


def count_devices() -> int:
    """Workers that suit this host: one per NVIDIA device, else one per core.

    On a CPU two processes of one thread train more than one process of two threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return count_gpus() or min(cores or 1, MAX_AUTO)


def count_gpus() -> int:
    """NVIDIA devices of this host, without the second that torch takes to say so."""
    return sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in DEVICES.glob("*"))


@dataclass
class _Seat:
    """One worker and its successors."""

    index: int
    process: subprocess.Popen[str] | None = None
    name: str = ""
    start_at: float = 0.0
    failed_starts: int = 0


class Workers:
    """The workers of one service; `tend` is to be called often, from one and the same thread."""

    def __init__(
        self, n: int, *, server: str, key: str | None, log_dir: Path,
        on_end: Callable[[str], bool], offers: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Start nothing yet.

        `on_end` gets the name of a worker that died, and says whether it had registered; `offers`
        are more options of each worker.
        """
        self._seats = [_Seat(index) for index in range(n)]
        self._server = server
        self._environment = {"DROPT_API_KEY": key} if key else {}
        self._log_dir = log_dir
        self._on_end = on_end
        self._offers = list(offers)
        self._n_started = 0

    def tend(self) -> None:
        """Start what is to run and is not running.

        Raises:
            WorkerMissing: one of them ended before it registered, several times in a row.
        """
        for seat in self._seats:
            if seat.process is not None and seat.process.poll() is not None:
                self._bury(seat)
            if seat.process is None and time.monotonic() >= seat.start_at:
                self._start(seat)

    def stop(self, patience_s: float = DRAIN_S) -> None:
        """End all: they give their work back, and are killed when that takes too long."""
        processes = [seat.process for seat in self._seats if seat.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + patience_s
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._seats.clear()

    def _start(self, seat: _Seat) -> None:
        self._n_started += 1
        seat.name = f"{os.uname().nodename}-{os.getpid()}-{self._n_started}"[:200]
        arguments = ["--server", self._server, "--name", seat.name, *self._offers]
        if n_gpus := count_gpus():
            arguments += ["--device", f"cuda:{seat.index % n_gpus}"]
        seat.process = spawn(
            MODULE, arguments, log=self._log_of(seat), environment=self._environment
        )
        logger.info("worker.started", extra={"worker": seat.name, "pid": seat.process.pid})

    def _bury(self, seat: _Seat) -> None:
        """Note the end of a worker, and when its successor may start."""
        assert seat.process is not None
        status, seat.process = seat.process.returncode, None
        seat.failed_starts = 0 if self._on_end(seat.name) else seat.failed_starts + 1
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0**seat.failed_starts)
        seat.start_at = time.monotonic() + delay_s
        logger.warning(
            "worker.ended", extra={"worker": seat.name, "status": status, "restart_in_s": delay_s}
        )
        if seat.failed_starts >= HOPELESS:
            raise WorkerMissing(
                f"The worker ended {seat.failed_starts} times before it was ready, last with "
                f"status {status}. Its log says why: {self._log_of(seat)}"
            )

    def _log_of(self, seat: _Seat) -> Path:
        return self._log_dir / f"worker-{seat.index}.log"
