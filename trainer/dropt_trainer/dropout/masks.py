"""The dropout op `dropt::drop`: masks are a function of (seed, site, step, call, element).

They are never drawn from a stream, so a trial has the same masks alone, in any slot of any pack,
on any backend and after a restart. `reference.py` defines them; float32 on a CPU runs in C.
"""

import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dropt_trainer.dropout.reference import Numbers, Slots, drop_in_torch
from dropt_trainer.native import load_library

MAX_ELEMENTS = 2**32  # of one site and slot: the element number has 32 bits
SLOT_TYPES = {"rate": torch.float32, "seed": torch.int64, "step": torch.int32}
REFUSALS = {
    1: "The step of a mask is negative; steps count training forwards from 0.",
    2: "A rate is not in [0, 1).",
}  # by the C kernel's return value


@functools.lru_cache(maxsize=4096)  # asked for at every call of every site
def site_key(name: str) -> int:
    """The site's part of a mask, a signed 32-bit number: a space with other sites has no say."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little", signed=True)


def mask_seed(trial_seed: int) -> int:
    """The seed of all masks of a trial, a signed 64-bit number."""
    digest = hashlib.sha256(f"masks:{trial_seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def backend() -> str:
    """What computes float32 masks on this CPU: "c" or, without a compiler, "torch"."""
    return "torch" if load_library() is None else "c"


def drop(
    x: Tensor, rate: Tensor, seed: Tensor, step: Tensor, *, site: int, call: int = 0
) -> Tensor:
    """Dropout of one trial's tensor; under vmap, of each slot's.

    Args:
        x: any shape, floating point.
        rate: one number in [0, 1), rounded to float32.
        seed: one int64, see `mask_seed`.
        step: one int32, training forwards of the trial so far.
        site: see `site_key`.
        call: how often the site has run in this forward.

    Returns:
        A new contiguous tensor like `x`. Its gradient is the same op on the gradient; take it with
        torch.autograd outside vmap (torch.func.grad knows no ops defined in Python).

    Raises:
        ValueError: more than 2^32 elements or, on a CPU (elsewhere reading them would wait for the
            device), a negative step or a rate outside [0, 1).
    """
    rate = rate.to(torch.float32)  # a model.double() converts its rates as well
    slots = Slots(rate.reshape(1), seed.reshape(1), step.reshape(1))
    return _call(x, slots, Numbers(site, call, 1, 1, x.numel()))


def bind_drop(
    y: Tensor, x: Tensor, rate: Tensor, seed: Tensor, step: Tensor, *numbers: int
) -> Callable[[], None] | None:
    """The kernel on fixed memory: every call of the result writes the dropout of x into y.

    None where it cannot be had: without C, for other types than float32, for tensors that are not
    contiguous (rates may have a stride). The arguments are those that the op has accepted.
    """
    library, whole = load_library(), (x, y, seed, step)
    if library is None or x.dtype != torch.float32 or x.device.type != "cpu":
        return None
    if not all(t.is_contiguous() for t in whole):
        return None
    kernel, tensors = library.dropt_drop, (x, y, rate, seed, step)
    values = (*(t.data_ptr() for t in tensors), rate.stride(0), *numbers)
    arguments = [kind(value) for kind, value in zip(kernel.argtypes, values, strict=True)]

    def run(_alive: tuple[Tensor, ...] = tensors) -> None:  # the pointers are as good as these
        _raise(kernel(*arguments))

    return run


def _call(x: Tensor, slots: Slots, numbers: Numbers) -> Tensor:
    result: Tensor = torch.ops.dropt.drop(x, *slots, *numbers)
    return result


def _drop_on_cpu(x: Tensor, rate: Tensor, seed: Tensor, step: Tensor, *numbers: int) -> Tensor:
    """C for float32, torch for the rest."""
    slots, layout = Slots(rate, seed, step), Numbers(*numbers)
    _check(slots, layout)
    library = load_library()
    if library is None or x.dtype != torch.float32:
        _check_slots(slots)
        if not bool(slots.rate.any()):
            return x.clone(memory_format=torch.contiguous_format)
        return drop_in_torch(x, slots, layout)
    x, seed, step = x.contiguous(), seed.contiguous(), step.contiguous()
    y = torch.empty_like(x)
    pointers = (t.data_ptr() for t in (x, y, rate, seed, step))
    _raise(library.dropt_drop(*pointers, rate.stride(0), *numbers))
    return y


def _drop_on_cuda(x: Tensor, rate: Tensor, seed: Tensor, step: Tensor, *numbers: int) -> Tensor:
    slots, layout = Slots(rate, seed, step), Numbers(*numbers)
    _check(slots, layout)
    return drop_in_torch(x, slots, layout)


def _raise(refusal: int) -> None:
    if refusal:
        raise ValueError(REFUSALS[refusal])


def _check(slots: Slots, numbers: Numbers) -> None:
    """What can be told without reading a value: C would read a wrong type as if it were right."""
    n_elements = numbers.n_outer * numbers.n_inner
    if n_elements > MAX_ELEMENTS:
        raise ValueError(f"A site has {n_elements} elements; at most 2^32 can be numbered.")
    for name, dtype in SLOT_TYPES.items():
        value: Tensor = getattr(slots, name)
        if value.dtype != dtype or value.shape != (numbers.n_slots,):
            what = f"{value.dtype} {list(value.shape)}"
            raise ValueError(f"{name} is {what}, not {dtype} [{numbers.n_slots}].")


def _check_slots(slots: Slots) -> None:
    if bool((slots.step < 0).any()):
        raise ValueError(REFUSALS[1])
    if not bool(((slots.rate >= 0) & (slots.rate < 1)).all()):
        raise ValueError(REFUSALS[2])


def _drop_fake(x: Tensor, *others: Tensor | int) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # Any: torch's own context
    ctx.save_for_backward(*inputs[1:4])
    ctx.numbers = Numbers(*inputs[4:])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The same masks on the gradient: no mask is kept between forward and backward."""
    return _call(gradient, Slots(*ctx.saved_tensors), ctx.numbers), *[None] * 8


def _drop_slots(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *rest: Any) -> Any:
    """Batching rule: the vmapped dimension becomes the slots, wherever in x it lies.

    Any: torch's `info` has no type, and the op's tensors and integers arrive in one row.
    """
    numbers, at = Numbers(*rest[3:]), in_dims[0]
    if numbers.n_slots != 1:
        raise NotImplementedError("dropt::drop under nested vmap: slots can be batched once only")
    if at is None:
        x, at = x.expand(info.batch_size, *x.shape), 0
    slots = Slots(
        *(
            _per_slot(t, t_dim, info.batch_size)
            for t, t_dim in zip(rest[:3], in_dims[1:4], strict=True)
        )
    )
    outer, inner = math.prod(x.shape[:at]), math.prod(x.shape[at + 1 :])
    layout = Numbers(numbers.site, numbers.call, outer, info.batch_size, inner)
    return _call(x, slots, layout), at


def _per_slot(value: Tensor, dim: int | None, n_slots: int) -> Tensor:
    """[K] of a number that may be the same for all slots."""
    return value.reshape(1).expand(n_slots) if dim is None else value.reshape(n_slots)


torch.library.define(
    "dropt::drop",
    "(Tensor x, Tensor rate, Tensor seed, Tensor step, int site, int call, int O, int K, int I)"
    " -> Tensor",
)
torch.library.impl("dropt::drop", "CPU", _drop_on_cpu)
torch.library.impl("dropt::drop", "CUDA", _drop_on_cuda)
torch.library.register_fake("dropt::drop", _drop_fake)
torch.library.register_autograd("dropt::drop", _backward, setup_context=_save)
torch.library.register_vmap("dropt::drop", _drop_slots)
