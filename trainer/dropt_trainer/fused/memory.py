"""What to do when a pack does not fit: its rows are computed in parts, and its pace is the cost.

Activations take the most memory, and they last for one step. So no trial has to leave and no epoch
is trained again: the step that ran out of memory is done once more in halves, on the same weights,
and the pack keeps to the smaller width. Slots do not mix, so no result depends on the width.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from dropt_trainer.data.dataset import Inputs, take
from dropt_trainer.fused.recorded import Function
from dropt_trainer.fused.rows import Window
from dropt_trainer.sites.ports import RATES, SEED, STEP

logger = logging.getLogger(__name__)

Built = TypeVar("Built")
OF_MASKS = {RATES, SEED, STEP}  # buffers that no model changes


class InParts:
    """A function of rows that is run on at most `width` of them at once.

    Attributes:
        width: halved whenever memory runs out.
    """

    def __init__(self, function: Function, width: int) -> None:
        self.width = width
        self._function = function
        self._fits: set[int] = set()  # numbers of rows that had enough memory

    def __call__(self, window: Window, x: Inputs, y: Tensor) -> Sequence[Tensor]:
        """Run on all rows of a window.

        Raises:
            torch.OutOfMemoryError: one row does not fit; the window is as it was, but for its
                gradients.
        """
        n_rows = len(y)
        # Batch norm changes its statistics before memory runs out: they have to be undone.
        keeps = n_rows not in self._fits or (y.device.type == "cuda" and not is_capturing(y))
        buffers = (
            [b for name, b in window.buffers.items() if name not in OF_MASKS] if keeps else []
        )
        before = [buffer.clone() for buffer in buffers]
        while True:
            try:
                results = self._run(window, x, y)
            except torch.OutOfMemoryError as error:
                _restore(buffers, before)
                if self.width == 1 or n_rows == 1 or is_capturing(y):
                    raise
                why = str(error).partition("\n")[0]
            else:
                self._fits.add(n_rows)
                return results
            # Outside of the handler, where the error would keep the activations alive.
            self.width = halved(min(self.width, n_rows), why)

    def _run(self, window: Window, x: Inputs, y: Tensor) -> Sequence[Tensor]:
        if len(y) <= self.width:
            return self._function(window, x, y)
        starts = range(0, len(y), self.width)
        spans = [slice(start, start + self.width) for start in starts]
        parts = [self._function(part_of(window, s), _rows_of(x, s), y[s]) for s in spans]
        return [torch.cat(pieces) for pieces in zip(*parts, strict=True)]


class Chunked:
    """A function of examples that is run on as many of them as memory holds.

    Attributes:
        most: examples at once; None as long as all have fitted.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def run(self, function: Callable[[Inputs], Tensor], x: Inputs) -> Tensor:
        """The outputs [n, B, ...] of examples [B, ...].

        Raises:
            torch.OutOfMemoryError: one example does not fit.
        """
        first = next(iter(x.values())) if isinstance(x, dict) else x
        while True:
            size = min(self.most or len(first), len(first))
            try:
                if size == len(first):
                    return function(x)
                chunks = torch.split(torch.arange(len(first), device=first.device), size)
                return torch.cat([function(take(x, chunk)) for chunk in chunks], dim=1)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise
                why = str(error).partition("\n")[0]
            self.most = halved(size, why)


def with_room(build: Callable[[int], Built], n_slots: int) -> Built:
    """What is built with so many slots, or with half as many as often as memory runs out.

    Raises:
        torch.OutOfMemoryError: one slot does not fit.
    """
    while True:
        try:
            return build(n_slots)
        except torch.OutOfMemoryError as error:
            if n_slots == 1:
                raise
            why = str(error).partition("\n")[0]
        n_slots = halved(n_slots, why)


def halved(width: int, why: str) -> int:
    """Half a width, after what is cached has been given back; one line in the log."""
    logger.warning("pack.out_of_memory", extra={"width": width, "next": width // 2, "why": why})
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return width // 2


def start_watching(device: torch.device) -> int:
    """Bytes in use on a CUDA device; the most from now on is what `most_used` tells. Else 0."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def most_used(device: torch.device) -> int:
    """The most bytes in use at once since `start_watching`; 0 where the device does not tell."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def part_of(window: Window, span: slice) -> Window:
    """Some rows of a window, with the same memory."""
    return Window(
        {name: p.detach()[span].requires_grad_() for name, p in window.parameters.items()},
        [gradient[span] for gradient in window.gradients],
        {name: buffer[span] for name, buffer in window.buffers.items()},
    )


def is_capturing(tensor: Tensor) -> bool:
    """Whether what runs on the tensor's device goes into a graph, where memory cannot be freed."""
    return tensor.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _restore(tensors: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    for tensor, kept in zip(tensors, before, strict=True):
        tensor.copy_(kept)


def _rows_of(x: Inputs, span: slice) -> Inputs:
    return {name: t[span] for name, t in x.items()} if isinstance(x, dict) else x[span]
