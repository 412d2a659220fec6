"""Which lane a model trains in, and how many slots pay: measured on the model, never assumed.

On a CPU, fusing loses for models whose step is long (convolutions), and `vmap` cannot run some
models, or runs them wrongly without saying so. So the pack is compared with the solo lane in
float64, and both are timed.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dropt_trainer.data.dataset import Inputs
from dropt_trainer.dropout.masks import backend
from dropt_trainer.fused.memory import most_used, start_watching
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.precision import DTYPES
from dropt_trainer.fused.slots import SlotTrial
from dropt_trainer.fused.step import Lane, row_of
from dropt_trainer.losses import Loss
from dropt_trainer.optim import Family, Params
from dropt_trainer.sites.calling import arguments_of, primary_output
from dropt_trainer.sites.instrument import SitePort

Clock = Callable[[], float]  # seconds, monotonic

SLOTS_TRIED = (4, 16, 64)
N_COMPARED, TOLERANCE = 3, 1e-9  # steps in float64, relative difference of the losses
N_WARM, N_TIMED, SECONDS_TIMED = 2, 20, 1.0  # steps before the clock, on it, and when to stop
WORTH = 1.05  # more slots must be faster by this factor: they cost the sampler information
HOPELESS = 0.7  # below this share of the best rate so far, more slots are not tried
MEMORY_SHARE = 0.8
RATE = 0.2
# What torch and model code raise when a model cannot be batched.
UNBATCHABLE = (RuntimeError, TypeError, ValueError, AttributeError, LookupError)


@dataclass(frozen=True)
class Probe:
    """How a model is best trained here.

    Attributes:
        lane: fused or solo.
        why: one line for people.
        slots: trials to train at once.
        bytes_per_trial: state and saved activations.
        trial_steps_per_second: by number of slots; 1 is the solo lane.
    """

    lane: Lane
    why: str
    slots: int
    bytes_per_trial: int
    trial_steps_per_second: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is measured: a model with its sites, on one batch of real data.

    Attributes:
        x: [B, ...], or such tensors by name.
        y: [B] or [B, D].
        precision: that trials will train in, see `precision`.
    """

    model_factory: Callable[[int], nn.Module]
    ports: Sequence[SitePort]
    x: Inputs
    y: Tensor
    optimizer: Family
    loss: str | Loss
    device: torch.device | str = "cpu"
    precision: str = "float32"

    def pack(self, n_slots: int, lane: Lane, precision: str | None = None) -> Pack:
        """A pack of trials that differ, all slots filled."""
        pack = Pack(
            self.model_factory, self.ports, slots=n_slots, optimizer=self.optimizer,
            loss=self.loss, precision=precision or self.precision, device=self.device, lane=lane,
        )  # fmt: skip
        kinds = {port.site: port.kind for port in reversed(self.ports)}
        for slot in range(n_slots):
            rates = dict.fromkeys(kinds, RATE / (1 + slot % 2))
            pack.load(slot, SlotTrial(slot, 1, Params(lr=1e-3), rates=rates, kinds=kinds))
        return pack

    def batch(self, n_slots: int, dtype: torch.dtype | None = None) -> tuple[Inputs, Tensor]:
        """The batch for each slot, its rows shifted by the slot: [n, B, ...]."""
        dtype = dtype or DTYPES[self.precision]
        y = _shifted(self.y, n_slots, dtype)
        if isinstance(self.x, dict):
            return {name: _shifted(t, n_slots, dtype) for name, t in self.x.items()}, y
        return _shifted(self.x, n_slots, dtype), y


def probe(
    subject: Subject, *, max_slots: int, clock: Clock, memory_bytes: int | None = None
) -> Probe:
    """Choose lane and number of slots.

    Args:
        subject: the model on a batch.
        max_slots: most that may be chosen.
        clock: seconds, monotonic.
        memory_bytes: that may be had; None: no matter.

    Raises:
        ValueError: the model runs modules again on the way back.
        Whatever the model raises when one trial trains alone.
    """
    refuse_recomputation(subject)
    difference = _why_not_fused(subject)
    lane: Lane = "solo" if difference else "fused"
    bytes_per_trial = _bytes_per_trial(subject, lane)
    if memory_bytes is not None:
        max_slots = min(max_slots, int(MEMORY_SHARE * memory_bytes / bytes_per_trial))
    timed = {1: _time(subject, 1, "solo", clock)}
    if not difference:
        timed |= _time_packs(subject, max_slots, clock, alone=timed[1].rate)
    rates = {n_slots: each.rate for n_slots, each in timed.items()}
    slots = best_slots(rates) if not difference else 1
    chosen = timed[slots]
    return Probe(
        "solo" if slots == 1 else "fused",
        (difference or _reason(rates, slots)) + _masks() + chosen.note,
        slots, max(bytes_per_trial, chosen.bytes_per_trial), rates,
    )  # fmt: skip


def refuse_recomputation(subject: Subject) -> None:
    """Raise ValueError where a module runs again on the way back, as in activation checkpointing.

    A trial's weights, rates and seed stand in the model during its forward only: a second forward
    from within the gradient would silently see those of the model as it was built.
    """
    model = subject.model_factory(0).to(subject.device).train()
    n_calls = 0

    def count(module: nn.Module, args: object) -> None:
        nonlocal n_calls
        n_calls += 1

    for module in model.modules():
        module.register_forward_pre_hook(count)
    inputs = row_of(subject.batch(1, torch.float32)[0], 0)
    args, kwargs = arguments_of(model, inputs)
    output = primary_output(model(*args, **kwargs))
    n_forward = n_calls
    weights = [p for p in model.parameters() if p.requires_grad]
    torch.autograd.grad(output.sum(), weights, allow_unused=True)
    if n_calls > n_forward:
        raise ValueError(
            "The model runs modules again to compute its gradients: "
            "activation checkpointing is not supported. Turn it off in the model "
            "(torch.utils.checkpoint; in transformers: gradient_checkpointing_disable())."
        )


def best_slots(rates: Mapping[int, float]) -> int:
    """The number of slots to take, from trial-steps per second by number of slots.

    The fastest; of those that it beats by less than `WORTH`, the fewest.
    """
    fastest = max(rates.values())
    return min(n_slots for n_slots, rate in rates.items() if rate * WORTH >= fastest)


def _why_not_fused(subject: Subject) -> str:
    """Why the fused lane cannot be taken, in one line; empty when it can."""
    try:
        alone = _losses(subject, "solo")
    except UNBATCHABLE as error:
        return f"cannot be compared in float64: {_first_line(error)}"
    try:
        fused = _losses(subject, "fused")
    except UNBATCHABLE as error:
        return f"cannot be batched: {_first_line(error)}"
    for step, (a, b) in enumerate(zip(alone, fused, strict=True), start=1):
        if not torch.allclose(a, b, rtol=TOLERANCE, atol=0.0, equal_nan=True):
            worst = float(((a - b) / a).abs().max())
            return f"a pack differs from trials alone: relative {worst:.1e} in loss at step {step}"
    return _why_not_mixed(subject) if subject.precision == "bfloat16" else ""


def _why_not_mixed(subject: Subject) -> str:
    """Why a pack cannot be trained under autocast: half types lack some operations."""
    try:
        subject.pack(2, "fused").step(*subject.batch(2))
    except UNBATCHABLE as error:
        return f"cannot be batched in {subject.precision}: {_first_line(error)}"
    return ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _losses(subject: Subject, lane: Lane) -> list[Tensor]:
    """[2] losses of each compared step, in float64."""
    pack = subject.pack(2, lane, "float64")
    x, y = subject.batch(2, torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a slow batching rule is no wrong one: timing tells
        return [pack.step(x, y) for _ in range(N_COMPARED)]


@dataclass(frozen=True)
class _Timed:
    """A pack on the clock.

    Attributes:
        rate: trial-steps per second.
        note: what stood in its way, to be added to a reason; empty for nothing.
        bytes_per_trial: most that it took, where the device tells; else 0.
    """

    rate: float
    note: str
    bytes_per_trial: int


def _time_packs(
    subject: Subject, max_slots: int, clock: Clock, *, alone: float
) -> dict[int, _Timed]:
    """Packs of more and more slots, until memory runs out or there is no hope."""
    timed: dict[int, _Timed] = {}
    best = alone
    for n_slots in _slots_to_try(max_slots):
        try:
            timed[n_slots] = _time(subject, n_slots, "fused", clock)
        except torch.OutOfMemoryError:  # not even the state of so many trials fits
            break
        best = max(best, timed[n_slots].rate)
        if timed[n_slots].rate < HOPELESS * best:
            break
    return timed


def _time(subject: Subject, n_slots: int, lane: Lane, clock: Clock) -> _Timed:
    before = start_watching(torch.device(subject.device))
    pack = subject.pack(n_slots, lane)
    rate = _trial_steps_per_second(subject, pack, clock)
    note = f"; no graph of the device: {pack.refusal}" if pack.refusal else ""
    if pack.width < n_slots:
        note += f"; out of memory, computed {pack.width} at once"
    return _Timed(rate, note, (most_used(pack.device) - before) // n_slots)


def _trial_steps_per_second(subject: Subject, pack: Pack, clock: Clock) -> float:
    n_slots = pack.n_slots
    x, y = subject.batch(n_slots)
    seconds: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(N_WARM + N_TIMED):
            start = clock()
            pack.step(x, y).sum().item()  # waits for the device
            seconds += [clock() - start] * (step >= N_WARM)
            if sum(seconds) > SECONDS_TIMED:
                break
    return n_slots / min(seconds)  # the step that other programs disturbed least


def _bytes_per_trial(subject: Subject, lane: Lane) -> int:
    """State of a trial, one transient gradient, and the slope of the saved activations."""
    pack = subject.pack(2, lane)
    tensors = (*pack.rows.all, *pack.optimizer.rows, *[pack.rows.gradient] * 2)
    state = sum(tensor[0].nbytes for tensor in tensors)
    saved = [_saved_bytes(subject, n_slots, lane) for n_slots in (1, 2)]
    return state + max(0, saved[1] - saved[0])


def _saved_bytes(subject: Subject, n_slots: int, lane: Lane) -> int:
    """Bytes that a step keeps for the way back, each storage once, weights among them."""
    pack = subject.pack(n_slots, lane)
    x, y = subject.batch(n_slots)
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.nbytes
        return tensor

    def give(tensor: Tensor) -> Tensor:
        return tensor

    with warnings.catch_warnings(), torch.autograd.graph.saved_tensors_hooks(note, give):
        warnings.simplefilter("ignore")
        pack.step(x, y)
    return sum(sizes.values())


def _slots_to_try(max_slots: int) -> list[int]:
    usual = [n_slots for n_slots in SLOTS_TRIED if n_slots <= max_slots]
    return usual or ([max_slots] if max_slots > 1 else [])


def _reason(rates: Mapping[int, float], slots: int) -> str:
    if len(rates) == 1:
        return "no room for a second slot"
    if slots == 1:
        others = max(rate for n_slots, rate in rates.items() if n_slots > 1)
        return f"alone is fastest: {rates[1]:,.0f} trial-steps/s, {others:,.0f} as a pack"
    return f"{rates[slots]:,.0f} trial-steps/s with {slots} slots, {rates[1]:,.0f} alone"


def _masks() -> str:
    return "" if backend() == "c" else "; masks in torch operations, no C kernel"


def _shifted(tensor: Tensor, n_slots: int, dtype: torch.dtype) -> Tensor:
    tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return torch.stack([tensor.roll(slot, 0) for slot in range(n_slots)])
