"""What the training thread has to say, and what it has been told: shared with the speaker."""

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from dropt.spec.protocol import Finished, LeaseNews, Measurement, ReportAnswer, TrialAssignment


@dataclass(frozen=True)
class Message:
    """The content of one report, with the artifacts that it names."""

    free_slots: int = 0
    measurements: tuple[Measurement, ...] = ()
    finished: tuple[Finished, ...] = ()
    artifacts: tuple[bytes, ...] = ()

    def without(self, trials: Collection[str]) -> "Message":
        """The message with nothing of these trials in it."""
        return replace(
            self,
            measurements=tuple(m for m in self.measurements if m.trial not in trials),
            finished=tuple(f for f in self.finished if f.trial not in trials),
        )


@dataclass(frozen=True)
class Orders:
    """What the training thread is to do before its next epoch.

    Attributes:
        stop: trials that end now and are reported as pruned.
        drop: trials to forget; nothing more is said of them.
        add: trials to begin.
    """

    stop: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()
    add: tuple[TrialAssignment, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stop or self.drop or self.add)


class Outbox:
    """The place where the threads of one lease meet; every method holds its lock.

    `held` are the trials that the worker answers for: those of the lease and those added later,
    until their end is put in here or they are dropped. What is free is promised once, because an
    added trial is held from the answer on.
    """

    def __init__(self, held: Iterable[str], *, n_slots: int, max_measurements: int) -> None:
        self._changed = threading.Condition()
        self._held = set(held)
        self._n_slots = n_slots
        self._max_measurements = max_measurements
        self._measurements: list[Measurement] = []
        self._finished: list[Finished] = []
        self._artifacts: dict[str, tuple[bytes, ...]] = {}
        self._urgent = False
        self._under_way = False
        self._stop: set[str] = set()
        self._drop: set[str] = set()
        self._add: list[TrialAssignment] = []
        self._closed = False
        self._wants_more = True

    # ---- the training thread

    def put_measurements(self, measurements: Sequence[Measurement], *, urgent: bool) -> None:
        """Queue what an epoch gave; `urgent` when a rung is among it."""
        with self._changed:
            self._measurements += [m for m in measurements if m.trial in self._held]
            self._urgent |= urgent
            self._changed.notify_all()

    def put_end(self, end: Finished, artifacts: tuple[bytes, ...] = ()) -> None:
        """Queue the end of a trial, with the artifacts that it names; its slot is free."""
        with self._changed:
            if end.trial not in self._held:
                return
            self._held.discard(end.trial)
            self._finished.append(end)
            self._artifacts[end.trial] = artifacts
            self._urgent = True
            self._changed.notify_all()

    def take_orders(self) -> Orders:
        """What has been told since the last call."""
        with self._changed:
            orders = Orders(frozenset(self._stop), frozenset(self._drop), tuple(self._add))
            self._stop.clear()
            self._drop.clear()
            self._add.clear()
            return orders

    def want_no_more(self) -> None:
        """Offer no free slots from now on, and say at once what is queued."""
        with self._changed:
            self._wants_more = False
            self._urgent |= self._has_news
            self._changed.notify_all()

    def wait_until_said(self, timeout_s: float) -> bool:
        """Wait until all that is queued is answered, or the lease is lost; False if not yet."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._closed or not (self._has_news or self._under_way), timeout_s
            )

    @property
    def is_closed(self) -> bool:
        """Whether the lease is lost: nothing said of it will be heard."""
        with self._changed:
            return self._closed

    # ---- the speaking threads

    def take_message(self, *, patience_s: float, spacing_s: float) -> Message | None:
        """The next report: at once when it is urgent, else after `spacing_s`; None when closed.

        Without news it comes after `patience_s`, because a report also renews the lease.
        """
        with self._changed:
            self._under_way = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._urgent or self._closed, spacing_s)
            self._changed.wait_for(
                lambda: self._has_news or self._closed, max(0.0, patience_s - spacing_s)
            )
            if self._closed:
                return None
            return self._pack_message()

    def take_answer(self, answer: ReportAnswer | LeaseNews) -> None:
        """Note what the service wants; `add` comes with reports alone."""
        with self._changed:
            self._stop |= self._held & set(answer.stop)
            self._lose({*answer.cancel, *answer.lost})
            if isinstance(answer, ReportAnswer):
                self._add += answer.add
                self._held |= {trial.id for trial in answer.add}
            if answer.end:
                self._wants_more = False
            self._changed.notify_all()

    def lose(self, trials: Collection[str]) -> None:
        """Forget trials that another worker has, or that nobody wants any more."""
        with self._changed:
            self._lose(trials)

    def close(self) -> None:
        """The lease is over, whatever is still queued."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # ---- with the lock held

    @property
    def _has_news(self) -> bool:
        return bool(self._measurements or self._finished)

    def _pack_message(self) -> Message:
        """Take as much as one report may hold; ends wait for the measurements before them."""
        taken, self._measurements = (
            tuple(self._measurements[: self._max_measurements]),
            self._measurements[self._max_measurements :],
        )
        waiting = {m.trial for m in self._measurements}
        finished = tuple(f for f in self._finished if f.trial not in waiting)
        self._finished = [f for f in self._finished if f.trial in waiting]
        artifacts = tuple(file for end in finished for file in self._artifacts.pop(end.trial))
        self._urgent = self._has_news
        self._under_way = True
        return Message(self._n_free, taken, finished, artifacts)

    @property
    def _n_free(self) -> int:
        busy = len(self._held) + len(self._finished)  # their slots are free, their ends not told
        return max(0, self._n_slots - busy) if self._wants_more else 0

    def _lose(self, trials: Collection[str]) -> None:
        lost = self._held & set(trials)
        self._held -= lost
        self._drop |= lost
        self._stop -= lost
        self._add = [trial for trial in self._add if trial.id not in lost]
        self._measurements = [m for m in self._measurements if m.trial not in set(trials)]
        self._finished = [f for f in self._finished if f.trial not in set(trials)]
