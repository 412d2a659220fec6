"""The thread that says, busy or idle, that the worker is there; its answers renew the lease."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dropt.client import Client
from dropt.errors import DroptError, NotFound
from dropt.spec.protocol import Heartbeat
from dropt_trainer.worker.deadline import Deadline
from dropt_trainer.worker.outbox import Outbox

logger = logging.getLogger(__name__)

JOIN_S = 6.0  # longer than a request may hang


@dataclass(frozen=True)
class Held:
    """A lease that is being worked on, as the heartbeat needs it."""

    lease_id: str
    deadline: Deadline
    outbox: Outbox


@dataclass
class Pulse:
    """What the heartbeat and the main thread tell each other.

    Attributes:
        drain: set when the worker is to end, by a signal or by the service.
        unknown: set when the service does not know this worker any more.
        held: the lease under way.
    """

    drain: threading.Event = field(default_factory=threading.Event)
    unknown: threading.Event = field(default_factory=threading.Event)
    held: Held | None = None


class HeartbeatThread:
    """Sends a heartbeat each `interval_s` until it is ended.

    A request that fails is not repeated: the next one says the same.
    """

    def __init__(
        self, client: Client, worker_id: str, interval_s: float, pulse: Pulse,
        free_memory: Callable[[], int],
    ) -> None:  # fmt: skip
        self._client, self._worker_id, self._interval_s = client, worker_id, interval_s
        self._pulse, self._free_memory = pulse, free_memory
        self._due, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def beat_now(self) -> None:
        self._due.set()

    def end(self) -> None:
        """Send no more; wait for a heartbeat under way, whose client is closed next."""
        self._ending.set()
        self._due.set()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        while True:
            self._due.wait(self._interval_s)
            self._due.clear()
            if self._ending.is_set():
                return
            try:
                self._beat(self._pulse.held)
            except NotFound:
                self._forget()
                return
            except DroptError as error:
                logger.warning("heartbeat.failed", extra={"why": error.detail})

    def _beat(self, held: Held | None) -> None:
        leases = () if held is None else (held.lease_id,)
        sent_at = time.monotonic()
        answer = self._client.heartbeat(
            self._worker_id, Heartbeat(leases=leases, memory_free_bytes=self._free_memory())
        )
        if answer.drain:
            self._pulse.drain.set()
        for news in answer.leases:
            if held is None or news.id != held.lease_id:
                continue
            held.deadline.renew(sent_at, news.expires_in)
            held.outbox.take_answer(news)

    def _forget(self) -> None:
        """The service has forgotten this worker: its work is lost, and it registers anew."""
        logger.warning("worker.unknown", extra={"worker": self._worker_id})
        self._pulse.unknown.set()
        held = self._pulse.held
        if held is not None:
            held.outbox.close()
