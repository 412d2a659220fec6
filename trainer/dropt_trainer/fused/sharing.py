"""One piece of memory for all tensors of a recording that are not needed at the same time.

A step that writes into few pieces over and over finds them in the processor's caches.
"""

from collections.abc import Sequence, Set
from itertools import chain

import torch
from torch import Tensor
from torch.storage import UntypedStorage

from dropt_trainer.fused.calls import Call, storage_of


def share_memory(calls: Sequence[Call], kept: Set[int]) -> int:
    """Move the tensors that these calls make into shared memory, and their views with them.

    An operation that works number by number may write where it reads, if nothing reads that later.

    Args:
        calls: in the order in which they will run again.
        kept: storages that are not to be moved: they are used before, between or after the runs.

    Returns:
        Bytes of the memory that is now used.
    """
    plan = _Plan(calls, kept)
    for at, call in enumerate(calls):
        plan.place(at, call)
    for call in calls:
        for tensor in chain(call.inputs, call.outputs):
            home = plan.homes.get(storage_of(tensor))
            if home is not None:
                tensor.set_(home, tensor.storage_offset(), tensor.size(), tensor.stride())
    return plan.n_bytes


class _Plan:
    """Where each storage goes: the smallest piece that is free and large enough, or a new one."""

    def __init__(self, calls: Sequence[Call], kept: Set[int]) -> None:
        self.homes: dict[int, UntypedStorage] = {}
        self.n_bytes = 0
        self._kept = kept
        self._free: list[UntypedStorage] = []
        self._last = {s: at for at, call in enumerate(calls) for s in call.reads | call.writes}

    def place(self, at: int, call: Call) -> None:
        """Find a place for what a call makes, then give back what nothing reads any more."""
        given: set[int] = set()
        for output in call.outputs:
            storage = storage_of(output)
            if storage in self._kept or storage in call.reads or storage in self.homes:
                continue
            source = self._overwritten(at, call, output)
            if source is None:
                self.homes[storage] = self._take(output.untyped_storage())
            else:
                self.homes[storage] = self.homes[source]
                given.add(source)
        for storage in (call.reads | call.writes) - given:
            if self._last[storage] == at and storage in self.homes:
                self._free.append(self.homes[storage])

    def _overwritten(self, at: int, call: Call, output: Tensor) -> int | None:
        """The storage of an input whose numbers the output may replace one by one."""
        by_number = torch.Tag.pointwise in call.function.tags
        if not (by_number or call.function is torch.ops.dropt.drop.default):
            return None
        inputs = list(call.inputs)
        storages = [storage_of(tensor) for tensor in inputs]
        for tensor, storage in zip(inputs, storages, strict=True):
            alone = storages.count(storage) == 1 and len(call.outputs) == 1
            dies = self._last[storage] == at and storage in self.homes
            if alone and dies and _geometry(tensor) == _geometry(output):
                return storage
        return None

    def _take(self, needed: UntypedStorage) -> UntypedStorage:
        """A free piece, of those that fit the one freed last, or a new one."""
        fitting = [piece for piece in reversed(self._free) if piece.nbytes() >= needed.nbytes()]
        if not fitting:
            self.n_bytes += needed.nbytes()
            return torch.UntypedStorage(  # type: ignore[no-untyped-call] # torch's own
                needed.nbytes(), device=needed.device
            )
        piece = min(fitting, key=lambda one: one.nbytes())
        self._free = [one for one in self._free if one is not piece]
        return piece


def _geometry(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
