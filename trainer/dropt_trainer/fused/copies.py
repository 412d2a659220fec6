"""Copies of many tensors on fixed memory, matrices that lie turned among them.

The gradient of a weight [out, in] comes as a view of [in, out]; torch copies such a view number by
number, which takes longer than the product that made it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dropt_trainer.native import load_library


def bind_copies(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> Callable[[], None]:
    """Every call of the result copies each source into its target, [n, ...] each."""
    pairs = list(zip(targets, sources, strict=True))
    turned = [bound for target, source in pairs if (bound := _bind_turn(target, source))]
    others = [pair for pair in pairs if _bind_turn(*pair) is None]
    into, out_of = [target for target, _ in others], [source for _, source in others]

    def run() -> None:
        for bound in turned:
            bound()
        if into:
            torch._foreach_copy_(into, out_of)

    return run


def _bind_turn(target: Tensor, source: Tensor) -> Callable[[], None] | None:
    """The copy of [n, R, C] out of [n, C, R]; None where torch does as well, or C is missing."""
    library = load_library()
    are_floats = {(t.dtype, t.device.type) for t in (target, source)} == {(torch.float32, "cpu")}
    if library is None or not are_floats or target.ndim != 3:
        return None
    n, rows, columns = target.shape
    lies_turned = source.transpose(1, 2).is_contiguous() and not source.is_contiguous()
    if target.shape != source.shape or not lies_turned or not target[0].is_contiguous():
        return None
    values = (target.data_ptr(), source.data_ptr(), target.stride(0), n, rows, columns)
    kernel = library.dropt_turn
    arguments = [kind(value) for kind, value in zip(kernel.argtypes, values, strict=True)]

    def run(_alive: tuple[Tensor, ...] = (target, source)) -> None:  # their pointers are used
        kernel(*arguments)

    return run
