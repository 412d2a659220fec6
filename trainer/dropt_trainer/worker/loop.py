"""The life of a worker: register, lease, work, report, and give back at the end."""

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from dropt.client import Client
from dropt.errors import DroptError, NotFound
from dropt.spec.protocol import (
    InspectionFailure,
    InspectionReport,
    Lease,
    LeaseRequest,
    Registered,
    Registration,
)
from dropt_trainer.device import free_memory
from dropt_trainer.worker.deadline import Deadline
from dropt_trainer.worker.ends import detail_of, reason_of
from dropt_trainer.worker.heartbeat import HeartbeatThread, Held, Pulse
from dropt_trainer.worker.outbox import Outbox
from dropt_trainer.worker.plugins import Plugins
from dropt_trainer.worker.retrying import GivenUp, until_answered
from dropt_trainer.worker.sources import DataSource, Wanted
from dropt_trainer.worker.speaker import Speaker, refuses_key, report_inspection
from dropt_trainer.worker.subjects import Subjects
from dropt_trainer.worker.training import WAIT_S, TrainingLease, Workshop

logger = logging.getLogger(__name__)

LONG_POLL_S = 20
IDLE_S = 0.5  # before the next request when there was no work, or a lease was refused
LAST_WORDS_S = 8.0  # for the reports of a worker that is to end
FRESH_SHARE = 0.3  # of a lease: one that was waited for longer is renewed at once

Answer = TypeVar("Answer")


class Interrupted(BaseException):
    """A signal came while the worker waited for work."""


@dataclass
class Worker:
    """One process on one device, registered with one service."""

    client: Client
    registration: Registration
    device: torch.device
    jitter: np.random.Generator
    plugins: Plugins = field(default_factory=Plugins)
    pulse: Pulse = field(default_factory=Pulse)
    _is_idle: bool = False

    def run(self) -> None:
        """Work until the worker is drained.

        Raises:
            DroptError: the service refuses this worker: its key, its protocol, its data sets.
        """
        shop = Workshop(
            DataSource(self.client, self.device, self.plugins.datasets),
            Subjects(self.device, self.registration.max_slots, self.plugins),
            self.device,
        )
        while not self.pulse.drain.is_set():
            self.pulse.unknown.clear()
            try:
                registered = self._register()
            except GivenUp:
                return
            self._work_as(registered, shop)

    def drain(self) -> None:
        """Finish the epoch, report, give back and end; safe to call from a signal handler."""
        logger.info("drain.begun")
        self.pulse.drain.set()
        if self._is_idle:
            raise Interrupted

    def _register(self) -> Registered:
        def register() -> Registered:
            return self.client.register_worker(self.registration)

        registered = self._ask(register)
        logger.info("worker.registered", extra={"worker": registered.id})
        return registered

    def _work_as(self, registered: Registered, shop: Workshop) -> None:
        """Work under one id, until the worker ends or the service has forgotten it."""
        heartbeat = HeartbeatThread(
            self.client, registered.id, registered.heartbeat_seconds, self.pulse,
            lambda: free_memory(self.device),
        )  # fmt: skip
        heartbeat.start()
        try:
            while not (self.pulse.drain.is_set() or self.pulse.unknown.is_set()):
                self._work_once(registered, heartbeat, shop)
        except (Interrupted, GivenUp):
            pass
        except NotFound:
            logger.warning("worker.unknown", extra={"worker": registered.id})
            self.pulse.drain.wait(IDLE_S)
        finally:
            heartbeat.end()
            self._retire(registered.id)

    def _work_once(
        self, registered: Registered, heartbeat: HeartbeatThread, shop: Workshop
    ) -> None:
        """One lease from its request to its end."""
        asked_at, lease = self._next_lease(registered.id)
        if lease is None:
            self.pulse.drain.wait(IDLE_S)
            return
        logger.debug("lease.received", extra={"lease": lease.id, "kind": lease.kind})
        deadline = Deadline(asked_at, lease.expires_in)
        outbox = Outbox(
            [trial.id for trial in lease.trials], n_slots=lease.slots,
            max_measurements=registered.max_measurements,
        )  # fmt: skip
        self.pulse.held = Held(lease.id, deadline, outbox)
        if time.monotonic() - asked_at > FRESH_SHARE * lease.expires_in:
            heartbeat.beat_now()
        try:
            if lease.kind == "inspect":
                self._inspect(lease, registered.id, shop)
            else:
                self._train(lease, deadline, outbox, registered, shop)
        finally:
            self.pulse.held = None

    def _next_lease(self, worker_id: str) -> tuple[float, Lease | None]:
        """The next lease, and when it was asked for; one key until it is answered.

        The service may have granted it at any moment since: the lease counts from the asking.
        """
        request = LeaseRequest(
            worker=worker_id, slots=self.registration.max_slots,
            memory_free_bytes=free_memory(self.device),
        )  # fmt: skip
        key = uuid.uuid4().hex

        def ask() -> tuple[float, Lease | None]:
            asked_at = time.monotonic()
            with self._idle():
                return asked_at, self.client.request_lease(
                    request, idempotency_key=key, wait_s=LONG_POLL_S
                )

        return self._ask(ask)

    @contextmanager
    def _idle(self) -> Iterator[None]:
        """Let a signal end the block: nothing is lost by it."""
        self._is_idle = True
        try:
            if self.pulse.drain.is_set():
                raise Interrupted
            yield
        finally:
            self._is_idle = False

    def _train(
        self, lease: Lease, deadline: Deadline, outbox: Outbox, registered: Registered,
        shop: Workshop,
    ) -> None:  # fmt: skip
        speaker = Speaker(
            self.client, lease.id, registered, outbox, deadline, drain=self.pulse.drain,
            jitter=self.jitter.spawn(1)[0],
        )  # fmt: skip
        speaker.start()
        TrainingLease(lease, outbox, deadline, self.pulse.drain).run(shop)
        self._end_lease(lease, outbox, speaker)
        if speaker.failure is not None:
            self._after_refusal(speaker.failure, lease.id)

    def _end_lease(self, lease: Lease, outbox: Outbox, speaker: Speaker) -> None:
        """Close a lease that is done; give one back whose trials are still under way."""
        outbox.want_no_more()
        while not (self.pulse.drain.is_set() or outbox.wait_until_said(WAIT_S)):
            pass
        if not self.pulse.drain.is_set():
            speaker.finish()
            return
        outbox.wait_until_said(LAST_WORDS_S)
        speaker.end()
        self._give_back(lease.id)

    def _inspect(self, lease: Lease, worker_id: str, shop: Workshop) -> None:
        try:
            report_inspection(
                self.client, lease.id, worker_id, _look(lease, shop),
                ending=self.pulse.drain, jitter=self.jitter,
            )  # fmt: skip
        except DroptError as error:
            self._after_refusal(error, lease.id)

    def _after_refusal(self, error: DroptError, lease_id: str) -> None:
        """Go on after a report that was not understood; end when the key is refused."""
        if refuses_key(error):
            raise error
        logger.error("lease.refused", extra={"lease": lease_id, "why": error.detail})
        self._give_back(lease_id)
        self.pulse.drain.wait(IDLE_S)

    def _give_back(self, lease_id: str) -> None:
        try:
            self.client.give_back(lease_id)
        except DroptError as error:  # gone already, or it expires by itself
            logger.info("lease.not_given_back", extra={"lease": lease_id, "why": error.detail})

    def _retire(self, worker_id: str) -> None:
        try:
            self.client.retire_worker(worker_id)
        except DroptError as error:
            logger.info("worker.not_retired", extra={"worker": worker_id, "why": error.detail})

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        return until_answered(request, sleep=self.pulse.drain.wait, jitter=self.jitter)


def _look(lease: Lease, shop: Workshop) -> InspectionReport:
    """What a model is, or why that cannot be said."""
    wanted = Wanted.of(lease.dataset, parts=lease.score, precision=lease.training.precision)
    try:
        subject = shop.subjects.of(lease, shop.source.prepare(wanted))
    except Exception as error:  # noqa: BLE001 (whatever a model or its data raise is reported)
        logger.warning("inspection.failed", extra={"lease": lease.id, "why": str(error)})
        failure = InspectionFailure(reason=reason_of(error), detail=detail_of(error))
        return InspectionReport(failure=failure)
    return InspectionReport(result=subject.inspection)
