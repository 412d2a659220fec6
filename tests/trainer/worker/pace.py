"""Time and pace of a worker under test: both go on when the test says so, on any machine."""

import threading
from dataclasses import dataclass

PATIENCE_S = 120.0


@dataclass
class Clock:
    """Monotonic seconds."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


class Epochs:
    """Hands out the epochs that a worker trains; it waits for the next when it has none."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_allowed = 0
        self.n_begun = 0  # the last of them may still wait to be allowed

    def allow(self, n: int) -> None:
        with self._changed:
            self._n_allowed += n
            self._changed.notify_all()

    def begin(self) -> None:
        """Called by the worker."""
        with self._changed:
            self.n_begun += 1
            number = self.n_begun
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._n_allowed >= number, PATIENCE_S)

    def wait_for(self, n: int) -> None:
        """Wait until the worker has begun its n-th epoch."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.n_begun >= n, PATIENCE_S)
