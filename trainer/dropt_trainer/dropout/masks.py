"""The dropout op `dropt::drop`: masks are a function of (seed, site, step, call, element).

They are never drawn from a stream, so a trial has the same masks alone, in any slot of any pack,
on any backend and after a restart. `reference.py` defines them; a CPU runs them in C, a GPU in
Triton, and both in torch operations where these cannot be had.
"""

import functools
import hashlib
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dropt_trainer.dropout.reference import Numbers, Slots, drop_in_torch
from dropt_trainer.native import load_library, load_triton

logger = logging.getLogger(__name__)

MAX_ELEMENTS = 2**32  # of one site and slot: the element number has 32 bits
C_TYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
}  # of the kernel
PLAIN_TYPES = (Tensor, torch.nn.Parameter)
SLOT_TYPES = (torch.float32, torch.int64, torch.int32)  # rate, seed, step
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


TRITON = "dropt_trainer.dropout.on_cuda"


def backend() -> str:
    """What computes masks on this CPU: "c" or, without a compiler, "torch"."""
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
    return _drop(x, Slots(rate, seed, step), Numbers(site, call, 1, 1, x.numel()))


def bind_drop(
    y: Tensor, x: Tensor, rate: Tensor, seed: Tensor, step: Tensor, *numbers: int
) -> Callable[[], None] | None:
    """The kernel on fixed memory: every call of the result writes the dropout of x into y.

    None where it cannot be had: without C or Triton, for tensors that are not contiguous (rates
    may have a stride). The arguments are those that the op has accepted.
    """
    if not all(t.is_contiguous() for t in (y, x, seed, step)):
        return None
    if x.is_cuda:
        kernels = load_triton(TRITON, x.device)
        if kernels is None:
            return None
        slots, layout = Slots(rate, seed, step), Numbers(*numbers)
        return functools.partial(kernels.drop_into, y, x, slots, layout)
    library = load_library()
    if library is None or x.dtype not in C_TYPES:
        return None
    kernel, tensors = library.dropt_drop, (x, y, rate, seed, step)
    values = (*(t.data_ptr() for t in tensors), rate.stride(0), *numbers, C_TYPES[x.dtype])
    arguments = [kind(value) for kind, value in zip(kernel.argtypes, values, strict=True)]

    def run(_alive: tuple[Tensor, ...] = tensors) -> None:  # the pointers are as good as these
        _raise(kernel(*arguments))

    return run


def _drop(x: Tensor, slots: Slots, numbers: Numbers) -> Tensor:
    """The op by the shortest way: the dispatcher's Python layers cost more than a small kernel."""
    if not _is_plain(x):
        result: Tensor = torch.ops.dropt.drop(x, *(t.reshape(-1) for t in slots), *numbers)
    elif x.requires_grad and torch.is_grad_enabled():
        result = _Drop.apply(x, slots, numbers)  # type: ignore[no-untyped-call]  # torch's own
    else:
        result = _compute(x, slots, numbers)
    return result


def _is_plain(x: Tensor) -> bool:
    """Whether nobody has to see the op itself: no compiler, vmap, recorder or tracer."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._is_tracing()
        and type(x) in PLAIN_TYPES
    )


def _compute(x: Tensor, slots: Slots, numbers: Numbers) -> Tensor:
    """The values of the op on a device, by the fastest backend that it has."""
    _check(slots, numbers)
    if x.is_cuda:
        return _drop_on_cuda(x, slots, numbers)
    library = load_library()
    if library is not None and x.dtype in C_TYPES:
        return _drop_in_c(library.dropt_drop, x, slots, numbers)
    _check_values(slots)
    if not bool(slots.rate.any()):
        return x.clone(memory_format=torch.contiguous_format)
    return drop_in_torch(x, slots, numbers)


def _drop_in_c(kernel: Callable[..., int], x: Tensor, slots: Slots, numbers: Numbers) -> Tensor:
    x, rate, seed, step = (
        x.contiguous(),
        slots.rate,
        slots.seed.contiguous(),
        slots.step.contiguous(),
    )
    y, stride = torch.empty_like(x), rate.stride(0) if rate.ndim else 0
    pointers = x.data_ptr(), y.data_ptr(), rate.data_ptr(), seed.data_ptr(), step.data_ptr()
    _raise(kernel(*pointers, stride, *numbers, C_TYPES[x.dtype]))
    return y


def _drop_on_cuda(x: Tensor, slots: Slots, numbers: Numbers) -> Tensor:
    kernels = load_triton(TRITON, x.device)
    run = drop_in_torch if kernels is None else kernels.drop_in_triton
    result: Tensor = run(x, slots, numbers)
    return result


def _run_op(x: Tensor, rate: Tensor, seed: Tensor, step: Tensor, *numbers: int) -> Tensor:
    return _compute(x, Slots(rate, seed, step), Numbers(*numbers))


def _raise(refusal: int) -> None:
    if refusal:
        raise ValueError(REFUSALS[refusal])


def _check(slots: Slots, numbers: Numbers) -> None:
    """What can be told without reading a value: C would read a wrong type as if it were right."""
    n_elements = numbers.n_outer * numbers.n_inner
    if n_elements > MAX_ELEMENTS:
        raise ValueError(f"A site has {n_elements} elements; at most 2^32 can be numbered.")
    rate, seed, step = slots
    types = rate.dtype, seed.dtype, step.dtype
    sizes = rate.numel() == seed.numel() == step.numel() == numbers.n_slots
    if types == SLOT_TYPES and sizes and rate.ndim <= 1:
        return
    found = ", ".join(f"{value.dtype} {list(value.shape)}" for value in slots)
    raise ValueError(
        f"rate, seed, step are {found}; float32, int64, int32 [{numbers.n_slots}] are needed."
    )


def _check_values(slots: Slots) -> None:
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
    return _drop(gradient, Slots(*ctx.saved_tensors), ctx.numbers), *[None] * 8


class _Drop(torch.autograd.Function):
    """The op with its gradient, in plain eager code."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Slots, numbers: Numbers) -> Tensor:
        ctx.slots, ctx.numbers, ctx.version = slots, numbers, _version(slots)
        return _compute(x, slots, numbers)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """As `_backward`; `save_for_backward` makes the same check, and takes 3 us for it."""
        if _version(ctx.slots) != ctx.version:
            raise RuntimeError("rate, seed or step changed in place between forward and backward.")
        return _drop(gradient, ctx.slots, ctx.numbers), None, None


def _version(slots: Slots) -> int:
    """A number that grows with every change in place."""
    return slots.rate._version + slots.seed._version + slots.step._version


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
    return _drop(x, slots, layout), at


def _per_slot(value: Tensor, dim: int | None, n_slots: int) -> Tensor:
    """[K] of a number that may be the same for all slots."""
    return value.reshape(1).expand(n_slots) if dim is None else value.reshape(n_slots)


torch.library.define(
    "dropt::drop",
    "(Tensor x, Tensor rate, Tensor seed, Tensor step, int site, int call, int O, int K, int I)"
    " -> Tensor",
)
torch.library.impl("dropt::drop", "CPU", _run_op)
torch.library.impl("dropt::drop", "CUDA", _run_op)
torch.library.register_fake("dropt::drop", _drop_fake)
torch.library.register_autograd("dropt::drop", _backward, setup_context=_save)
torch.library.register_vmap("dropt::drop", _drop_slots)
