"""Losses and gradients of a pack on a batch: as PyTorch runs them, or from a recording.

A recording is made when a shape comes again, and its runs number 1, 8, 64, 512, ... have PyTorch
beside them: losses, gradients and buffers must agree in every bit, or PyTorch keeps the work from
there on. So a model that depends on more than numbers in tensors, on a count of its own calls say,
is found out; what such a model does in a pack is undefined anyway, because trials share it.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dropt_trainer.data.dataset import Inputs
from dropt_trainer.fused.replay import Recording
from dropt_trainer.fused.rows import Window
from dropt_trainer.fused.step import Forward

logger = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]  # [n, B, ...], [n, B, ...] -> [n, B]
Shape = tuple[object, ...]

MOST_BYTES = 2**28  # of all recordings; a pack that shrinks and grows comes back to its shapes


@dataclass(frozen=True)
class Batch:
    """What a step works on, and what it gives.

    Attributes:
        x: [n, B, ...], or such tensors by name.
        y: [n, B] or [n, B, D].
        output: [n, B, C or D].
        losses: [n], means over the batch.
    """

    x: Inputs
    y: Tensor
    output: Tensor
    losses: Tensor


@dataclass
class Recorded:
    """A recording with its own batch, whose memory it reads and writes."""

    recording: Recording
    batch: Batch
    n_runs: int = 0

    @property
    def is_due(self) -> bool:
        """Whether the next run is to be checked: its number is a power of 8."""
        n = self.n_runs + 1
        return n & (n - 1) == 0 and n.bit_length() % 3 == 1

    def run(self, x: Inputs, y: Tensor) -> Batch:
        """The step on these rows; the result lasts until the next run."""
        for target, source in zip(leaves(self.batch.x, self.batch.y), leaves(x, y), strict=True):
            target.copy_(source)
        self.n_runs += 1
        self.recording.run()
        return self.batch


class Gradients:
    """Runs the forward, the loss and the way back of all filled rows."""

    def __init__(self, forward: Forward, loss: Loss, *, records: bool = True) -> None:
        """Take what to run.

        Args:
            forward: see `step`.
            loss: see `losses`.
            records: whether to record; without, PyTorch does each step.
        """
        self._forward, self._loss = forward, loss
        self._records = records
        self._seen: set[Shape] = set()
        self._recorded: OrderedDict[Shape, Recorded] = OrderedDict()

    def compute(self, window: Window, x: Inputs, y: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the gradients of a window from one batch.

        Returns:
            Outputs [n, B, C or D], and mean losses [n]; both last until the next call.
        """
        shape = _shape(x, y)
        recorded = self._recorded.get(shape)
        if recorded is not None:
            self._recorded.move_to_end(shape)
            run = partial(self._check, recorded, window) if recorded.is_due else recorded.run
            batch = run(x, y)
        elif self._records and shape in self._seen:
            batch = self._record(shape, window, x, y)
        else:
            self._seen.add(shape)
            batch = self._run(window, x, y)
        return batch.output, batch.losses

    def _run(self, window: Window, x: Inputs, y: Tensor) -> Batch:
        output = self._forward(window.parameters, window.buffers, x)
        losses = self._loss(output, y).mean(1)
        # Rows do not mix, so the gradient of the sum is each trial's own.
        gradients = torch.autograd.grad(
            losses.sum(), list(window.parameters.values()), allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        torch._foreach_copy_(window.gradients, gradients)
        return Batch(x, y, output.detach(), losses.detach())

    def _record(self, shape: Shape, window: Window, x: Inputs, y: Tensor) -> Batch:
        """Run as usual and note what runs."""
        x, y = _copy(x), y.clone()
        varying = (
            *leaves(x, y), *window.parameters.values(), *window.gradients,
            *window.buffers.values(),
        )  # fmt: skip

        def run() -> Sequence[Tensor]:
            batch = self._run(window, x, y)
            return batch.output, batch.losses

        recording = Recording(run, varying)
        batch = Batch(x, y, *recording.results)
        if recording.refusal:
            self._stop(recording.refusal)
        else:
            self._recorded[shape] = Recorded(recording, batch)
            self._forget_oldest()
        return batch

    def _check(self, recorded: Recorded, window: Window, x: Inputs, y: Tensor) -> Batch:
        """Run the recording and PyTorch on one batch; what PyTorch says holds."""
        before = [buffer.clone() for buffer in window.buffers.values()]
        replayed = recorded.run(x, y)
        seen = [t.clone() for t in _results(window, replayed)]
        torch._foreach_copy_(list(window.buffers.values()), before)
        batch = self._run(window, x, y)
        if not all(
            torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)
            for a, b in zip(seen, _results(window, batch), strict=True)
        ):
            self._stop(f"run {recorded.n_runs} gave other numbers than PyTorch")
        return batch

    def _forget_oldest(self) -> None:
        """Keep to the limit of memory; one recording may always stay."""
        used = sum(recorded.recording.n_bytes for recorded in self._recorded.values())
        while used > MOST_BYTES and len(self._recorded) > 1:
            _, oldest = self._recorded.popitem(last=False)
            used -= oldest.recording.n_bytes

    def _stop(self, why: str) -> None:
        """Leave all steps to PyTorch from here on."""
        logger.warning("replay.refused", extra={"why": why})
        self._records = False
        self._recorded.clear()


def leaves(x: Inputs, y: Tensor) -> Sequence[Tensor]:
    """All tensors of a batch, in a fixed order."""
    return (*(x[name] for name in sorted(x)), y) if isinstance(x, dict) else (x, y)


def _results(window: Window, batch: Batch) -> Sequence[Tensor]:
    return (*window.gradients, *window.buffers.values(), batch.output, batch.losses)


def _copy(x: Inputs) -> Inputs:
    return {name: t.clone() for name, t in x.items()} if isinstance(x, dict) else x.clone()


def _shape(x: Inputs, y: Tensor) -> Shape:
    named = tuple(sorted(x)) if isinstance(x, dict) else ()
    return (named, *((t.shape, t.dtype) for t in leaves(x, y)))
