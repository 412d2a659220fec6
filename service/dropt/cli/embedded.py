"""A service on a free loopback port that lives as long as one command."""

import json
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dropt import errors
from dropt.cli.child import spawn
from dropt.cli.hosting import LOCAL_KEY, address_of, listen
from dropt.cli.problems import ServiceEnded, WorkerMissing
from dropt.errors import DroptError, ServiceUnreachable
from dropt.spec.keys import new_key

MODULE = "dropt.cli.hosting"
LAST_WORDS_S = 5.0  # of a service that does not answer any more
PATIENCE_S = 25.0  # workers have 20 s to give their work back


class Embedded:
    """The child process that serves, seen from its parent."""

    def __init__(
        self, process: subprocess.Popen[str], address: str, state: Path, key: str
    ) -> None:
        self.address = address
        self.key = key
        self._process = process
        self._state = state

    def check(self, patience_s: float = 0.0) -> None:
        """Raise what ended the service, if it has ended or does so within `patience_s`."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        if self._process.returncode is None:
            return
        assert self._process.stdout is not None
        raise _failure(self._process.stdout.read(), self._state / "log")

    def stop(self, patience_s: float = PATIENCE_S) -> None:
        """End it in order; kill it when that takes too long."""
        self._process.terminate()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def embedded(state: Path, *, n_workers: int, offers: Sequence[str] = ()) -> Iterator[Embedded]:
    """A service over the state folder, with workers; ended with the block.

    `offers` are options of the workers for what they have of the user's own.

    It may still be starting when the block begins: its socket listens, so requests wait for it.
    """
    (state / "log").mkdir(parents=True, exist_ok=True)
    with listen("127.0.0.1", 0) as listener:
        address, key = address_of(listener), new_key()
        process = _start(listener, state, n_workers, offers, key)
    service = Embedded(process, address, state, key)
    try:
        yield service
    except ServiceUnreachable:
        service.check(LAST_WORDS_S)
        raise
    finally:
        service.stop()


def _start(
    listener: socket.socket, state: Path, n_workers: int, offers: Sequence[str], key: str
) -> subprocess.Popen[str]:
    """The key is for this service alone, and dies with it."""
    descriptor = listener.fileno()
    return spawn(
        MODULE,
        [str(descriptor), str(state), str(n_workers), *offers],
        log=state / "log" / "service.err",
        environment={LOCAL_KEY: key},
        stdout=subprocess.PIPE,
        pass_fds=(descriptor,),
    )


def _failure(output: str, log_dir: Path) -> DroptError:
    """The error that the child named in its last words, else where to look."""
    lines = output.strip().splitlines()
    try:
        said = json.loads(lines[-1])
        kind = _kinds()[said["code"]]
        return kind(said["detail"])
    except (IndexError, KeyError, ValueError, TypeError):
        return ServiceEnded(f"The service ended by itself. Its log is in {log_dir}.")


def _kinds() -> dict[str, type[DroptError]]:
    known = [errors.StateInUse, errors.SchemaMismatch, errors.NotReady, errors.StorageFull]
    return {kind.code: kind for kind in (*known, errors.Internal, WorkerMissing)}
