"""One `train` lease: a pack of trials, from the first assignment to the last report."""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch

from dropt.spec.protocol import Lease, Measurement, SplitName, TrialAssignment
from dropt_trainer.fused.driver import Driver, EpochEnd, Scores
from dropt_trainer.fused.memory import with_room
from dropt_trainer.fused.pack import Pack
from dropt_trainer.worker.assignments import check_fingerprint, ports_of, slot_trial
from dropt_trainer.worker.deadline import Deadline
from dropt_trainer.worker.ends import (
    Tenant,
    Unsupported,
    completed,
    diverged,
    failed,
    finite,
    metrics_of,
    pruned,
)
from dropt_trainer.worker.outbox import Orders, Outbox
from dropt_trainer.worker.scoring import scores_file
from dropt_trainer.worker.sources import DataSource, Wanted
from dropt_trainer.worker.subjects import Subjects

logger = logging.getLogger(__name__)

WAIT_S = 0.25  # at most, between two looks at whether the worker is to end
SCORED_ALONE: SplitName = "test"  # the search chose by the other parts: their examples prove less


@dataclass(frozen=True)
class Workshop:
    """What every lease of a worker is trained with."""

    source: DataSource
    subjects: Subjects
    device: torch.device


@dataclass
class TrainingLease:
    """Trains the trials of a lease and puts everything that is to be said into the outbox."""

    lease: Lease
    outbox: Outbox
    deadline: Deadline
    drain: threading.Event
    _tenants: dict[int, Tenant] = field(default_factory=dict)
    _waiting: list[TrialAssignment] = field(default_factory=list)

    def run(self, shop: Workshop) -> None:
        """Train until no slot is filled and nothing is added, or the worker is to end.

        An error ends the trials that it hit, never the worker: it is reported as their failure.
        """
        waiting = list(self.lease.trials)
        try:
            driver = self._prepare(shop)
        except Exception as error:  # noqa: BLE001 (whatever a model or its data raise is reported)
            logger.warning("lease.not_prepared", extra={"lease": self.lease.id, "why": str(error)})
            self._fail(waiting, error)
            return
        self._begin(driver, waiting)
        while not self.outbox.is_closed:
            self._obey(driver, self.outbox.take_orders())
            if self.drain.is_set():
                return
            if self._tenants:
                self._train_epoch(driver)
            elif not self._wait_for_more(driver):
                return

    def _prepare(self, shop: Workshop) -> Driver:
        lease, training = self.lease, self.lease.training
        wanted = Wanted.of(lease.dataset, parts=lease.score, precision=training.precision)
        data = shop.source.prepare(wanted)
        subject = shop.subjects.of(lease, data)
        check_fingerprint(lease, subject.inspection)
        build = partial(
            Pack, subject.factory, ports_of(lease.columns, subject.inspection),
            optimizer=training.optimizer, loss=subject.loss, precision=training.precision,
            device=shop.device, lane=subject.lane(lease.slots),
        )  # fmt: skip
        return Driver(
            with_room(lambda slots: build(slots=slots), lease.slots), data,
            batch_size=training.batch_size, objective=lease.objective.metric,
            direction=lease.objective.direction, metrics=training.metrics,
            keep_best=training.select == "best_epoch",
        )  # fmt: skip

    def _obey(self, driver: Driver, orders: Orders) -> None:
        for slot, tenant in list(self._tenants.items()):
            if tenant.trial.id in orders.drop:
                self._vacate(driver, slot)
            elif tenant.trial.id in orders.stop:
                self._vacate(driver, slot)
                self.outbox.put_end(pruned(tenant))
        self._waiting = [trial for trial in self._waiting if trial.id not in orders.drop]
        self._begin(driver, orders.add)

    def _begin(self, driver: Driver, trials: Iterable[TrialAssignment]) -> None:
        """Put trials into free slots; one that does not fit fails, and nothing else.

        A pack that memory made smaller than its lease lets the rest wait.
        """
        self._waiting.extend(trials)
        while self._waiting and driver.pack.free:
            trial = self._waiting.pop(0)
            try:
                if trial.checkpoint is not None:
                    raise Unsupported("this worker reads no checkpoints")
                slot = min(driver.pack.free)
                patience = self.lease.training.patience
                driver.load(slot, slot_trial(trial, patience=patience))
            except Exception as error:  # noqa: BLE001 (a bad trial must not end its pack-mates)
                self._fail([trial], error)
                continue
            self._tenants[slot] = Tenant(trial, trial.first_epoch - 1)

    def _train_epoch(self, driver: Driver) -> None:
        """One epoch of every trial, unless the lease has run out and is not renewed yet."""
        if self.deadline.has_passed and not self.deadline.wait_for_renewal(WAIT_S):
            return
        started_at = time.monotonic()
        try:
            ends = driver.run_epoch()
            seconds = (time.monotonic() - started_at) / len(ends)
            self._report(driver, ends, seconds)
        except Exception as error:  # noqa: BLE001 (reported as the failure of the trials)
            logger.warning("epoch.failed", extra={"lease": self.lease.id, "why": str(error)})
            self._fail_all(driver, error)

    def _report(self, driver: Driver, ends: list[EpochEnd], seconds: float) -> None:
        due = [end.slot for end in ends if end.state != "diverged" and self._is_due(end)]
        trained = driver.evaluate("train", due)
        measurements = [self._measure(end, trained.get(end.slot), seconds) for end in ends]
        urgent = any(end.epoch in self.lease.rungs for end in ends)
        self.outbox.put_measurements(measurements, urgent=urgent)
        logger.debug("epoch.ended", extra={"lease": self.lease.id, "trials": len(ends)})
        for end in ends:
            if end.state == "diverged":
                self.outbox.put_end(diverged(self._tenants.pop(end.slot)))
        self._finish(driver, [end.slot for end in ends if end.state == "finished"])

    def _is_due(self, end: EpochEnd) -> bool:
        """Whether the training rows are scored in evaluation mode: at rungs and at the end."""
        return end.epoch in self.lease.rungs or end.state == "finished"

    def _measure(self, end: EpochEnd, trained: Scores | None, seconds: float) -> Measurement:
        tenant = self._tenants[end.slot]
        tenant.epoch = end.epoch
        if end.best_epoch == end.epoch:
            tenant.best_epoch, tenant.best = end.epoch, end.validation
        return Measurement(
            trial=tenant.trial.id, attempt=tenant.trial.attempt, epoch=end.epoch,
            train_loss=finite(end.train_loss),
            train_eval_loss=None if trained is None else finite(trained.loss),
            validation_loss=finite(end.validation.loss),
            metrics=metrics_of(end.validation), seconds=seconds,
        )  # fmt: skip

    def _finish(self, driver: Driver, slots: list[int]) -> None:
        """Score the trials that are done, and free their slots."""
        lease = self.lease
        if not slots:
            return
        alone = [part for part in lease.score if lease.per_example and part == SCORED_ALONE]
        scores = driver.finish(slots, [part for part in lease.score if part not in alone])
        for part in alone:
            for slot, each in driver.evaluate(part, slots, per_example=True).items():
                scores[slot][part] = each
        for slot, own in scores.items():
            files = {
                part: scores_file(each.examples, part)
                for part, each in own.items()
                if each.examples is not None
            }
            tenant = self._vacate(driver, slot)
            self.outbox.put_end(completed(tenant, own, files), tuple(files.values()))

    def _vacate(self, driver: Driver, slot: int) -> Tenant:
        driver.clear(slot)
        return self._tenants.pop(slot)

    def _fail_all(self, driver: Driver, error: Exception) -> None:
        for slot in list(self._tenants):
            tenant = self._tenants.pop(slot)
            if slot in driver.slots:
                driver.clear(slot)
            self.outbox.put_end(failed(tenant.trial, tenant.epoch, error))

    def _fail(self, trials: Iterable[TrialAssignment], error: Exception) -> None:
        for trial in trials:
            self.outbox.put_end(failed(trial, trial.first_epoch - 1, error))

    def _wait_for_more(self, driver: Driver) -> bool:
        """With every slot empty: wait until the ends are answered; whether there is more to do."""
        while not self.outbox.wait_until_said(WAIT_S):
            if self.drain.is_set():
                return True
        orders = self.outbox.take_orders()
        self._obey(driver, orders)
        return bool(self._tenants) or bool(orders.add)
