"""The thread that does what nobody waits for: webhooks are told, what is unused is removed."""

import logging
import threading
from collections.abc import Callable
from time import monotonic

from dropt.errors import DroptError
from dropt.jobs.deleting import collect_garbage
from dropt.jobs.webhooks import deliver_due
from dropt.storage import idempotency
from dropt.tuning.service import Service

logger = logging.getLogger(__name__)

TICK_S = 1.0  # between two looks into the outbox
SWEEP_S = 3600.0  # between two searches for what nothing refers to


class Upkeep:
    """Runs until stopped; what it does not finish, the next one does."""

    def __init__(self, service: Service, *, tick_s: float = TICK_S) -> None:
        self._service = service
        self._tick_s = tick_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin; the first sweep is after an hour."""
        self._thread.start()

    def stop(self) -> None:
        """Let the delivery that runs end, and return."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        swept_at = monotonic()
        while not self._stopping.wait(self._tick_s):
            if self._service.webhooks.hosts:
                self._guarded(self._deliver)
            if monotonic() - swept_at >= SWEEP_S:
                self._guarded(self._sweep)
                swept_at = monotonic()

    def _deliver(self) -> None:
        while deliver_due(self._service) and not self._stopping.is_set():
            continue

    def _sweep(self) -> None:
        collect_garbage(self._service)
        with self._service.database.writing() as session:
            idempotency.forget_old(session)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except DroptError as error:
            logger.warning("upkeep.waits", extra={"reason": str(error)})
        except Exception:  # the thread must outlive every fault
            logger.exception("upkeep.failed")
