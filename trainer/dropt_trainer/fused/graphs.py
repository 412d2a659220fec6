"""Steps of a pack as graphs of a CUDA device: captured once, launched as one.

A step of a small model is a hundred kernels of a few microseconds, each launched by the host. A
graph holds them all, with the addresses that they work on. Rates, seeds, steps, learning rates,
penalties and the batch are numbers in tensors that stay where they are, so a refill or a schedule
changes nothing in a graph. A pack that shrinks stays in the graph of its bucket, its last rows
idle: two graphs for each bucket serve a whole search, one for full batches and one for the last.

A model may depend on more than numbers in tensors, on a count of its own calls say; a graph does
not. So the first run of each is compared with PyTorch's, on the same weights and batch. What
cannot be captured, or differs, runs operation by operation, and says why.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dropt_trainer.data.dataset import Inputs
from dropt_trainer.fused.calls import LOOKING

logger = logging.getLogger(__name__)

# the whole step on the first n rows: x [n, B, ...], y [n, B, ...] -> results [n, ...] each
Step = Callable[[Inputs, Tensor], Sequence[Tensor]]
Shape = tuple[object, ...]  # of a batch, but for its number of rows

TOLERANCE = 1e-3  # relative, by norm: kernels that add in no fixed order differ by less
COPIES = {torch.ops.aten._to_copy, torch.ops.aten.copy_}  # the operations between two devices


class Captured(Protocol):
    """A function on tensors that stay where they are, to be run again.

    Attributes:
        results: of the last run; each run writes into them.
        refusal: why it cannot be run again, in one line; empty when it can.
    """

    @property
    def results(self) -> Sequence[Tensor]: ...

    @property
    def refusal(self) -> str: ...

    def run(self) -> None:
        """Run it on the numbers that the tensors now hold."""


# Runs the function once, as if it were just called, and captures it. The tensors are all that
# changes between two runs.
Capture = Callable[[Callable[[], Sequence[Tensor]], Sequence[Tensor]], Captured]


class DeviceGraph:
    """A function as a graph of the current CUDA device; see `Captured`."""

    def __init__(
        self,
        function: Callable[[], Sequence[Tensor]],
        varying: Sequence[Tensor],
        *,
        pool: Any = None,
    ) -> None:
        """Run the function once and capture it.

        Args:
            function: has run before, on another stream: nothing is compiled or set up in it.
            varying: not needed: a graph takes every tensor as changing.
            pool: handle of memory, shared with graphs whose results are read before another runs.
        """
        self.refusal = ""
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph, pool=pool):
                results = function()
        except (RuntimeError, ValueError) as error:  # torch's for CUDA's; a model's own
            self.refusal = _first_line(error)
        if self.refusal:
            self.results = function()
        else:
            self.results = results
            self.run()

    def run(self) -> None:
        self._graph.replay()


@dataclass
class _Bucket:
    """The batch that a graph reads, and the graph once it is captured.

    Attributes:
        x: [bucket, B, ...], or such tensors by name.
        y: [bucket, B] or [bucket, B, D].
    """

    x: Inputs
    y: Tensor
    captured: Captured | None = None

    def fill(self, x: Inputs, y: Tensor) -> None:
        """Take a batch of at most as many rows; the rows behind keep what they have."""
        for target, source in zip(_leaves(self.x, self.y), _leaves(x, y), strict=True):
            target[: len(source)].copy_(source)


class Graphs:
    """Runs the steps of a pack from graphs.

    Attributes:
        n_captures: so far; refills, new rates and schedules add none.
        refusal: why steps run operation by operation, in one line; empty when they do not.
    """

    def __init__(
        self,
        step: Step,
        *,
        n_slots: int,
        varying: Sequence[Tensor],
        capture: Capture,
        pads: bool = True,
    ) -> None:
        """Take what to run.

        Args:
            step: changes nothing but numbers in tensors that stay where they are.
            n_slots: K.
            varying: every tensor that a step reads or writes, the batch aside.
            capture: how it is done.
            pads: whether idle rows cost less than a capture; not where each row takes its time.
        """
        self.n_captures = 0
        self.refusal = ""
        self._step, self._n_slots, self._varying = step, n_slots, varying
        self._capture, self._pads = capture, pads
        self._buckets: dict[tuple[int, Shape], _Bucket] = {}

    def run(self, x: Inputs, y: Tensor) -> Sequence[Tensor]:
        """One step of the first n rows.

        The first of each bucket and shape warms up, the second is captured.

        Args:
            x: [n, B, ...], or such tensors by name.
            y: [n, B] or [n, B, D].

        Returns:
            What the step returns, [n, ...] each; they last until the next call.
        """
        if self.refusal:
            return self._step(x, y)
        n_rows = len(y)
        width = bucket(n_rows, self._n_slots) if self._pads else n_rows
        key = width, _shape(x, y)
        held = self._buckets.get(key)
        if held is None:
            held = self._buckets[key] = _Bucket(_padded(x, width), _pad(y, width))
            results = self._warm_up(held)
        else:
            held.fill(x, y)
            results = self._run(held)
        return [result[:n_rows] for result in results]

    def _warm_up(self, held: _Bucket) -> Sequence[Tensor]:
        """The step as it is, on a stream of its own; looks whether the host waits for numbers."""
        with HostReads() as reads:
            results = _on_side_stream(lambda: self._step(held.x, held.y), held.y.device)
        if reads.found:
            self._refuse(reads.found)
        return results

    def _run(self, held: _Bucket) -> Sequence[Tensor]:
        if held.captured is not None:
            held.captured.run()
            return held.captured.results
        before: list[Tensor] = []
        try:
            before = [tensor.clone() for tensor in self._varying]
            return self._first_run(held, before)
        except torch.OutOfMemoryError:
            if before:
                _restore(self._varying, before)
        self._refuse("no memory to capture and check a graph")
        return self._step(held.x, held.y)

    def _first_run(self, held: _Bucket, before: Sequence[Tensor]) -> Sequence[Tensor]:
        step = partial(self._step, held.x, held.y)
        captured = self._capture(step, (*_leaves(held.x, held.y), *self._varying))
        if captured.refusal:
            self._refuse(captured.refusal)
            return captured.results
        held.captured = captured
        self.n_captures += 1
        logger.info("graph.captured", extra={"rows": len(held.y), "batch": held.y.shape[1]})
        return self._check(captured, step, before)

    def _check(
        self,
        captured: Captured,
        step: Callable[[], Sequence[Tensor]],
        before: Sequence[Tensor],
    ) -> Sequence[Tensor]:
        """Run the graph and PyTorch from the same state; what PyTorch says holds."""
        _restore(self._varying, before)
        captured.run()
        seen = [tensor.clone() for tensor in (*self._varying, *captured.results)]
        _restore(self._varying, before)
        results = step()
        now = (*self._varying, *results)
        if not all(_agree(a, b) for a, b in zip(seen, now, strict=True)):
            self._refuse("the graph of a step gave other numbers than PyTorch")
        return results

    def _refuse(self, why: str) -> None:
        """Leave all steps to PyTorch from here on, and give the memory of graphs back."""
        logger.warning("graph.refused", extra={"why": why})
        self.refusal = why
        self._buckets.clear()


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own
    """Watches for operations after which the host waits for the device.

    Attributes:
        found: the first one, in one line; empty when there was none.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self.found = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped by the compiler, it would import the compiler, which takes 1 s."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.found:
            if LOOKING & set(func.tags):
                self.found = f"{func} looks at the numbers in a tensor"
            elif func.overloadpacket in COPIES and len(_devices(args, result)) > 1:
                self.found = f"{func} copies between the host and the device"
        return result


def bucket(n_rows: int, n_slots: int) -> int:
    """The number of rows that a graph for `n_rows` has: a power of two, or all slots."""
    return min(n_slots, 1 << (n_rows - 1).bit_length())


def _on_side_stream(
    function: Callable[[], Sequence[Tensor]], device: torch.device
) -> Sequence[Tensor]:
    """As CUDA asks before a capture: what is set up at a first call belongs to another stream."""
    if device.type != "cuda":
        return function()
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own
    current = torch.cuda.current_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        results = function()
    current.wait_stream(side)
    for result in results:
        result.record_stream(current)
    return results


def _restore(tensors: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    for tensor, kept in zip(tensors, before, strict=True):
        tensor.copy_(kept)


def _agree(a: Tensor, b: Tensor) -> bool:
    """Whether two results are the same up to rounding; what is not finite in both is ignored."""
    if not a.is_floating_point():
        return torch.equal(a, b)
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return False
    a, b = a.where(finite, 0.0), b.where(finite, 0.0)
    return bool(_norm(a - b) <= TOLERANCE * _norm(b))


def _norm(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return norm


def _devices(*values: Any) -> set[str]:
    return {t.device.type for t in tree_leaves(values) if isinstance(t, Tensor)}


def _leaves(x: Inputs, y: Tensor) -> Sequence[Tensor]:
    """All tensors of a batch, in a fixed order."""
    return (*(x[name] for name in sorted(x)), y) if isinstance(x, dict) else (x, y)


def _shape(x: Inputs, y: Tensor) -> Shape:
    named = tuple(sorted(x)) if isinstance(x, dict) else ()
    return (named, *((t.shape[1:], t.dtype) for t in _leaves(x, y)))


def _padded(x: Inputs, width: int) -> Inputs:
    return (
        {name: _pad(t, width) for name, t in x.items()} if isinstance(x, dict) else _pad(x, width)
    )


def _pad(tensor: Tensor, width: int) -> Tensor:
    """[width, ...]: a copy, with the first row once more for each that is missing."""
    return torch.cat([tensor, tensor[:1].expand(width - len(tensor), *tensor.shape[1:])])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
