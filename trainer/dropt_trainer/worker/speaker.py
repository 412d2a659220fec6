"""The thread that speaks for a pack: reports in order, repeated until they are answered."""

import logging
import threading
import time

import numpy as np

from dropt.client import Client
from dropt.errors import (
    DroptError,
    HostNotAllowed,
    Internal,
    LeaseLost,
    NotFound,
    Unauthorized,
)
from dropt.spec.protocol import InspectionReport, Registered, Report, ReportAnswer
from dropt_trainer.worker.deadline import Deadline
from dropt_trainer.worker.outbox import Message, Outbox
from dropt_trainer.worker.retrying import GivenUp, until_answered

logger = logging.getLogger(__name__)

SPACING_S = 1.0  # between reports that are not urgent
JOIN_S = 10.0


class Speaker:
    """Says what is in an outbox, and puts the answers back into it.

    `failure` is the refusal that ended it: of the key, or of a report that is not understood.
    """

    def __init__(
        self, client: Client, lease_id: str, worker: Registered, outbox: Outbox,
        deadline: Deadline, *, drain: threading.Event, jitter: np.random.Generator,
    ) -> None:  # fmt: skip
        self.failure: DroptError | None = None
        self._client, self._lease_id, self._worker = client, lease_id, worker
        self._outbox, self._deadline = outbox, deadline
        self._drain, self._jitter = drain, jitter
        self._sequence = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="speaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop speaking; what is queued is not said any more."""
        self._outbox.close()
        self._ending.set()
        self._thread.join(JOIN_S)

    def finish(self) -> None:
        """Close the lease after everything was said: the last report says done.

        If it is not heard, the lease expires by itself.
        """
        was_closed = self._outbox.is_closed
        self.end()
        if was_closed or self._thread.is_alive():
            return
        try:
            self._say(Message(), done=True)
        except (GivenUp, DroptError) as error:
            logger.warning("lease.not_closed", extra={"lease": self._lease_id, "why": str(error)})

    def _run(self) -> None:
        try:
            while True:
                message = self._outbox.take_message(
                    patience_s=self._worker.heartbeat_seconds, spacing_s=SPACING_S
                )
                if message is None:
                    return
                self._say(message)
        except GivenUp:
            return
        except NotFound as error:
            logger.warning("lease.gone", extra={"lease": self._lease_id, "why": error.detail})
        except DroptError as error:
            logger.error("report.refused", extra=_problem(self._lease_id, error))
            self.failure = error
        except Exception as error:
            logger.exception("report.failed", extra={"lease": self._lease_id})
            self.failure = Internal(f"a report could not be made: {error}")
        self._outbox.close()

    def _say(self, message: Message, *, done: bool = False) -> None:
        """Send one report under the next sequence, less what another worker has meanwhile."""
        self._sequence += 1
        while True:
            try:
                answer = self._send(message, done=done)
            except LeaseLost as error:
                logger.warning(
                    "lease.lost", extra={"lease": self._lease_id, "lost": list(error.lost)}
                )
                self._outbox.lose(error.lost)
                if not error.lease_held:
                    self._outbox.close()
                    return
                message = message.without(error.lost)
                continue
            self._outbox.take_answer(answer)
            return

    def _send(self, message: Message, *, done: bool) -> ReportAnswer:
        report = Report(
            worker=self._worker.id, sequence=self._sequence,
            free_slots=message.free_slots, measurements=message.measurements,
            finished=message.finished, done=done,
        )  # fmt: skip
        names = {"lease": self._lease_id, "sequence": self._sequence}

        def send() -> tuple[float, ReportAnswer]:
            for file in message.artifacts:
                self._client.put_artifact(file)
            sent_at = time.monotonic()
            logger.debug("report.sent", extra=names)
            return sent_at, self._client.send_report(self._lease_id, report)

        sent_at, answer = until_answered(send, sleep=self._ending.wait, jitter=self._jitter)
        logger.debug("report.answered", extra=names)
        self._deadline.renew(sent_at, answer.expires_in)
        if answer.drain:
            self._drain.set()
        return answer


def report_inspection(
    client: Client, lease_id: str, worker_id: str, inspection: InspectionReport,
    *, ending: threading.Event, jitter: np.random.Generator,
) -> None:  # fmt: skip
    """End an `inspect` lease with what was found."""
    report = Report(worker=worker_id, sequence=1, inspection=inspection, done=True)
    until_answered(lambda: client.send_report(lease_id, report), sleep=ending.wait, jitter=jitter)


def refuses_key(error: DroptError) -> bool:
    """Whether the service will not talk to this worker at all."""
    return isinstance(error, Unauthorized | HostNotAllowed)


def _problem(lease_id: str, error: DroptError) -> dict[str, object]:
    fields = [f"{field.pointer}: {field.message}" for field in error.errors]
    return {"lease": lease_id, "code": error.code, "why": error.detail, "fields": fields}
