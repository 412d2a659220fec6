"""Until when a lease may be worked on, on the monotonic clock."""

import threading
import time

MARGIN_S = 2.0  # for a request under way and a clock that runs faster than the service's
MARGIN_SHARE = 0.1  # of a lease too short for the full margin


class Deadline:
    """The instant past which no step is trained, unless a renewal has been answered.

    It counts from the moment at which the renewal was sent: the service cannot have renewed
    earlier. Safe to use from several threads.
    """

    def __init__(self, sent_at: float, expires_in_s: float) -> None:
        self._changed = threading.Condition()
        self._at = _after(sent_at, expires_in_s)

    def renew(self, sent_at: float, expires_in_s: float) -> None:
        """Take the answer to a renewal; an older one changes nothing."""
        with self._changed:
            self._at = max(self._at, _after(sent_at, expires_in_s))
            self._changed.notify_all()

    @property
    def has_passed(self) -> bool:
        with self._changed:
            return time.monotonic() >= self._at

    def wait_for_renewal(self, timeout_s: float) -> bool:
        """Wait while the deadline has passed; whether work may go on now."""
        with self._changed:
            return self._changed.wait_for(lambda: time.monotonic() < self._at, timeout_s)


def _after(sent_at: float, expires_in_s: float) -> float:
    return sent_at + expires_in_s - min(MARGIN_S, MARGIN_SHARE * expires_in_s)
