"""A function of tensors recorded once and run again, without the Python and autograd around it.

Training runs the same operations on tensors of the same shapes over and over; only the numbers in
them change. A recording keeps the operations below vmap and autograd with the memory they work on,
and runs them again in place: no module, hook, batching rule or graph of gradients, no view and no
allocation. The operations and their order are the same, and so is every bit of the result.
"""

import functools
from collections.abc import Callable, Sequence, Set
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from dropt_trainer.dropout.masks import bind_drop
from dropt_trainer.fused.calls import Call, Recorder, storage_of
from dropt_trainer.fused.copies import bind_copies
from dropt_trainer.fused.sharing import share_memory

# Operations that look at the form of a tensor, not at the numbers in it.
BLIND = {
    torch.ops.aten.ones_like.default, torch.ops.aten.zeros_like.default,
    torch.ops.aten.full_like.default, torch.ops.aten.new_zeros.default,
    torch.ops.aten.new_ones.default, torch.ops.aten.new_full.default,
}  # fmt: skip
WITH_SCALAR = {
    torch.ops.aten.mul.Scalar: torch.ops.aten.mul.Tensor,
    torch.ops.aten.div.Scalar: torch.ops.aten.div.Tensor,
}
Bound = Callable[[], Any]  # one operation with all its arguments; Any: what it returns is not read


class Recording:
    """The operations of a function on tensors that stay where they are.

    Attributes:
        results: what the function returned; each run writes into them.
        refusal: why it cannot be run again, in one line; empty when it can.
        n_bytes: of the memory between the operations.
    """

    def __init__(
        self, function: Callable[[], Sequence[Tensor]], varying: Sequence[Tensor]
    ) -> None:
        """Run the function once, as if it were just called, and record it.

        Args:
            function: what to run; it keeps nothing between two runs but numbers in tensors.
            varying: whatever changes between two runs, in place; all else is taken as constant.
        """
        recorder = Recorder()
        with recorder:
            self.results = [result.detach() for result in function()]
        self.refusal, self.n_bytes = recorder.refusal, 0
        self._bound: list[Bound] = []
        if not self.refusal:
            changing = _changing(recorder.calls, {storage_of(tensor) for tensor in varying})
            fixed = {storage_of(tensor) for tensor in (*varying, *self.results)}
            calls = _wanted([call for call in recorder.calls if call.writes & changing], fixed)
            self.n_bytes = share_memory(calls, fixed)
            self._bound = [_bind(call) for call in calls]

    def run(self) -> None:
        """Run the operations again, on the numbers that the tensors now hold.

        No tensor in them has to do with autograd.
        """
        for bound in self._bound:
            bound()


def _changing(calls: Sequence[Call], varying: set[int]) -> set[int]:
    """All storages whose numbers may differ between two runs."""
    before = 0
    while len(varying) > before:
        before = len(varying)
        for call in calls:
            is_random = torch.Tag.nondeterministic_seeded in call.function.tags
            if is_random or (call.reads & varying and call.function not in BLIND):
                varying |= call.writes
    return varying


def _wanted(calls: Sequence[Call], wanted: Set[int]) -> list[Call]:
    """Those whose results are read: at the end in these storages, or by one of the others."""
    found: list[Call] = []
    read = set(wanted)
    for call in reversed(calls):
        if call.writes & read:
            found.append(call)
            read |= call.reads
    return found[::-1]


def _bind(call: Call) -> Bound:
    """The operation on its memory, in the cheapest form there is."""
    function, arguments, outputs = call.function, call.args, {}
    if function is torch.ops.dropt.drop.default:
        bound = bind_drop(call.outputs[0], *call.args)
        if bound is not None:
            return bound
    if function is torch.ops.aten._foreach_copy_.default:
        return bind_copies(*call.args)
    if function in WITH_SCALAR and not isinstance(arguments[1], complex):
        # Its own writing form computes elsewhere and copies.
        function, arguments = WITH_SCALAR[function], (arguments[0], torch.tensor(arguments[1]))
    if not function._schema.is_mutable:
        into = _writing_form(function)
        if into is None or len(into[1]) != len(call.outputs):  # some results are not asked for
            return functools.partial(_run_and_copy, call)
        function, names = into
        outputs = dict(zip(names, call.outputs, strict=True))
    # What `function(...)` calls; 20 such calls of Python's would be 5 % of a small step.
    return functools.partial(function._op, *arguments, **call.kwargs, **outputs)


def _run_and_copy(call: Call) -> None:
    results = [t for t in tree_leaves(call.function(*call.args, **call.kwargs)) if t is not None]
    for target, result in zip(call.outputs, results, strict=True):
        target.copy_(result)


@functools.cache
def _writing_form(function: OpOverload) -> tuple[OpOverload, tuple[str, ...]] | None:
    """The same operation with its results as arguments, and their names; None if there is none."""
    wanted = [(a.name, str(a.type)) for a in function._schema.arguments]
    packet = function.overloadpacket
    for name in packet.overloads():
        candidate = getattr(packet, name)
        arguments = candidate._schema.arguments
        outs = [a for a in arguments if a.is_out]
        plain = [(a.name, str(a.type)) for a in arguments if not a.is_out]
        fits = plain == wanted and len(outs) == len(function._schema.returns)
        if outs and fits and all(str(a.type) == "Tensor" for a in outs):
            return candidate, tuple(a.name for a in outs)
    return None
