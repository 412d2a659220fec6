"""Operations as they ran below vmap and autograd, with the memory that they worked on."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Tags of operations that look at numbers to know what to return.
LOOKING = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
# Operations with a workspace that only their own backward can read.
OPAQUE = {torch.ops.aten.mkldnn_rnn_layer, torch.ops.aten.mkldnn_rnn_layer_backward}


@dataclass(frozen=True)
class Call:
    """One operation; its tensors are its own and stand for their memory.

    Attributes:
        reads: storages of the tensors that go in.
        writes: storages that it changes or makes; none for a view.
    """

    function: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    reads: frozenset[int]
    writes: frozenset[int]

    @property
    def inputs(self) -> Iterator[Tensor]:
        """All tensors among the arguments."""
        return (t for t in tree_leaves((self.args, self.kwargs)) if isinstance(t, Tensor))


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own
    """Runs every operation inside it and notes it.

    Attributes:
        calls: in their order.
        refusal: why the function cannot be run again from them, in one line; empty when it can.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self.calls: list[Call] = []
        self.refusal = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped by the compiler, it would import the compiler, which takes 1 s."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        about_tensors = any(
            isinstance(value, Tensor) for value in tree_leaves((args, kwargs, result))
        )
        if about_tensors and not self.refusal:  # some are about types alone
            try:
                self.calls.append(_note(func, args, kwargs or {}, result))
            except _NotReplayableError as error:
                self.refusal = str(error)
        return result


def storage_of(tensor: Tensor) -> int:
    """The identity of a tensor's memory, as long as the memory lives."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError as error:  # sparse, opaque
        raise _NotReplayableError(f"a {tensor.layout} tensor has no storage") from error


class _NotReplayableError(Exception):
    """An operation depends on more than the numbers in tensors."""


def _note(function: OpOverload, args: Any, kwargs: Any, result: Any) -> Call:
    outputs = [t for t in tree_leaves(result) if t is not None]
    if LOOKING & set(function.tags) or not all(isinstance(t, Tensor) for t in outputs):
        raise _NotReplayableError(f"{function} looks at the numbers in a tensor")
    if function.overloadpacket in OPAQUE:
        raise _NotReplayableError(f"{function} has a workspace of its own")
    args, kwargs = tree_map(_alias, (args, kwargs))
    reads = _storages((args, kwargs))
    changed = _storages([args[i] for i in _changed_arguments(function) if i < len(args)])
    changed |= _storages([kwargs[n] for n in _changed_names(function) if n in kwargs])
    made = _storages(outputs) - reads
    return Call(function, args, kwargs, tuple(map(_alias, outputs)), reads, made | changed)


@functools.cache
def _changed_arguments(function: OpOverload) -> tuple[int, ...]:
    """Positions of the arguments that are written."""
    arguments = function._schema.arguments
    return tuple(
        i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write
    )


@functools.cache
def _changed_names(function: OpOverload) -> tuple[str, ...]:
    return tuple(function._schema.arguments[i].name for i in _changed_arguments(function))


def _alias(value: Any) -> Any:
    """The same memory without autograd's marks, which would keep a whole graph alive."""
    return value.detach() if isinstance(value, Tensor) else value


def _storages(values: Any) -> frozenset[int]:
    return frozenset(storage_of(t) for t in tree_leaves(values) if isinstance(t, Tensor))
