"""A function of rows and a batch, run over and over: as PyTorch runs it, or from recordings.

A recording is made when a shape comes again. Its first run, and the runs number 8, 64, 512, ... of
all recordings together, have PyTorch beside them: results, gradients and buffers must agree in
every bit, or PyTorch keeps the work from there on. So a model that depends on more than numbers in
tensors, on a count of its own calls say, is found out; what such a model does in a pack is
undefined anyway, because trials share it.

A pack shrinks and grows, and recording costs many steps. So a recording of more rows serves for
fewer, its last rows idle, until that has cost as much as a recording of their own.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dropt_trainer.data.dataset import Inputs
from dropt_trainer.fused.replay import Recording
from dropt_trainer.fused.rows import Rows, Window

logger = logging.getLogger(__name__)

# what is run on the first rows, a batch of x [n, B, ...] and y [n, B, ...]; results [n, ...]
Function = Callable[[Window, Inputs, Tensor], Sequence[Tensor]]
Shape = tuple[object, ...]  # of a batch

MOST_BYTES = 2**28  # of all recordings; a pack that shrinks and grows comes back to its shapes
RECORDING_COST = 16.0  # about what making and checking a recording takes, in runs of it


@dataclass
class Recorded:
    """A recording with its own batch, whose memory it reads and writes.

    Attributes:
        n_rows: that it works on; each run may ask for fewer.
        x: [n_rows, B, ...], or such tensors by name.
        y: [n_rows, B] or [n_rows, B, D].
        results: [n_rows, ...].
    """

    recording: Recording
    n_rows: int
    x: Inputs
    y: Tensor
    results: Sequence[Tensor]
    has_run: bool = False

    def takes(self, x: Inputs, y: Tensor) -> bool:
        """Whether this batch is like its own, of fewer rows."""
        own, other = leaves(self.x, self.y), leaves(x, y)
        return len(own) == len(other) and all(
            a.shape[1:] == b.shape[1:] and len(a) > len(b) and a.dtype == b.dtype
            for a, b in zip(own, other, strict=True)
        )

    def run(self, x: Inputs, y: Tensor) -> Sequence[Tensor]:
        """Run on the rows of this batch; the results last until the next run."""
        n_rows = y.shape[0]
        for target, source in zip(leaves(self.x, self.y), leaves(x, y), strict=True):
            (target if n_rows == self.n_rows else target[:n_rows]).copy_(source)
        self.has_run = True
        self.recording.run()
        return self.results


class Repeated:
    """Runs a function on the first rows of a pack."""

    def __init__(
        self, function: Function, rows: Rows, *, records: bool = True, pads: bool = True
    ) -> None:
        """Take what to run.

        Args:
            function: may change gradients and buffers of the window that it is given.
            rows: of the pack.
            records: whether to record; without, PyTorch does each run.
            pads: whether a recording may serve for fewer rows; not where each row takes its time.
        """
        self._function, self._rows = function, rows
        self._records, self._pads = records, pads
        self._n_runs = 0  # of all recordings
        self._seen: set[Shape] = set()
        self._idle: defaultdict[Shape, float] = defaultdict(float)
        self._recorded: dict[Shape, Recorded] = {}

    def run(self, x: Inputs, y: Tensor) -> Sequence[Tensor]:
        """Run on the first n rows.

        Args:
            x: [n, B, ...], or such tensors by name.
            y: [n, B] or [n, B, D].

        Returns:
            [n, ...] each; they last until the next call.
        """
        shape = _shape(x, y)
        recorded = self._recorded.get(shape) or self._wider(shape, x, y)
        if recorded is not None:
            is_due = self._is_check_due() or not recorded.has_run
            results = self._check(recorded, x, y) if is_due else recorded.run(x, y)
            n_rows = y.shape[0]
            return results if n_rows == recorded.n_rows else [t[:n_rows] for t in results]
        if self._records and shape in self._seen:
            return self._record(shape, x, y)
        self._seen.add(shape)
        return self._function(self._rows.window(y.shape[0]), x, y)

    def _wider(self, shape: Shape, x: Inputs, y: Tensor) -> Recorded | None:
        """A recording of more rows, as long as that pays."""
        if not self._pads or self._idle[shape] >= RECORDING_COST:
            return None
        fitting = [one for one in self._recorded.values() if one.takes(x, y)]
        if not fitting:
            return None
        found = min(fitting, key=lambda one: one.n_rows)
        self._idle[shape] += 1.0 - y.shape[0] / found.n_rows
        self._seen.add(shape)
        return found

    def _is_check_due(self) -> bool:
        """Count a run; whether its number is a power of 8."""
        self._n_runs += 1
        n = self._n_runs
        return n & (n - 1) == 0 and n.bit_length() % 3 == 1

    def _record(self, shape: Shape, x: Inputs, y: Tensor) -> Sequence[Tensor]:
        """Run as usual and note what runs."""
        x, y = _copy(x), y.clone()
        window = self._rows.window(len(y))
        varying = (*leaves(x, y), *window.parameters.values(), *_changed(window))
        recording = Recording(lambda: self._function(window, x, y), varying)
        if recording.refusal:
            self._stop(recording.refusal)
        else:
            self._recorded[shape] = Recorded(recording, len(y), x, y, recording.results)
            self._forget_oldest()
        return recording.results

    def _check(self, recorded: Recorded, x: Inputs, y: Tensor) -> Sequence[Tensor]:
        """Run the recording and PyTorch on one batch; what PyTorch says holds."""
        window = self._rows.window(recorded.n_rows)
        before = [buffer.clone() for buffer in window.buffers.values()]
        results = recorded.run(x, y)
        seen = [t.clone() for t in (*_changed(window), *results)]
        torch._foreach_copy_(list(window.buffers.values()), before)
        results = self._function(window, recorded.x, recorded.y)
        if not all(
            torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)
            for a, b in zip(seen, (*_changed(window), *results), strict=True)
        ):
            self._stop(f"run {self._n_runs} gave other numbers than PyTorch")
        return results

    def _forget_oldest(self) -> None:
        """Keep to the limit of memory; one recording may always stay."""
        used = sum(recorded.recording.n_bytes for recorded in self._recorded.values())
        while used > MOST_BYTES and len(self._recorded) > 1:
            oldest = self._recorded.pop(next(iter(self._recorded)))
            used -= oldest.recording.n_bytes

    def _stop(self, why: str) -> None:
        """Leave all runs to PyTorch from here on."""
        logger.warning("replay.refused", extra={"why": why})
        self._records = False
        self._recorded.clear()


def leaves(x: Inputs, y: Tensor) -> Sequence[Tensor]:
    """All tensors of a batch, in a fixed order."""
    return (*(x[name] for name in sorted(x)), y) if isinstance(x, dict) else (x, y)


def _changed(window: Window) -> Sequence[Tensor]:
    """What the function may change."""
    return (*window.gradients, *window.buffers.values())


def _copy(x: Inputs) -> Inputs:
    return {name: t.clone() for name, t in x.items()} if isinstance(x, dict) else x.clone()


def _shape(x: Inputs, y: Tensor) -> Shape:
    if isinstance(x, dict):
        return (y.shape, y.dtype, *((name, x[name].shape, x[name].dtype) for name in sorted(x)))
    return (y.shape, y.dtype, x.shape, x.dtype)
