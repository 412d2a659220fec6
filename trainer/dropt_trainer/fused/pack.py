"""A pack: trials trained together as one model on one device."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dropt_trainer.data.dataset import Inputs
from dropt_trainer.dropout.masks import mask_seed
from dropt_trainer.fused.gradients import gradients_of
from dropt_trainer.fused.graphs import DeviceGraph, Graphs
from dropt_trainer.fused.memory import Chunked, InParts
from dropt_trainer.fused.own_loss import loss_of
from dropt_trainer.fused.precision import DTYPES, computed_in
from dropt_trainer.fused.recorded import Repeated
from dropt_trainer.fused.rows import Rows, Window
from dropt_trainer.fused.slots import SlotTrial, base_rates
from dropt_trainer.fused.step import Lane, forward_of
from dropt_trainer.losses import Loss
from dropt_trainer.optim import Family, Optimizer
from dropt_trainer.sites.instrument import SitePort, instrument
from dropt_trainer.sites.ports import SEED


@dataclass(frozen=True)
class SlotState:
    """A trial between two epochs; it may go on in any slot, pack, lane or device.

    Attributes:
        model: the `state_dict` of the user's own model.
        moments: [P] each, of the optimizer.
        step: training forwards so far.
    """

    model: dict[str, Tensor]
    moments: tuple[Tensor, ...]
    step: int


class Pack:
    """K slots for trials that share model, batch size, optimizer, loss and precision.

    The rows of filled slots are kept at the front, so that a step costs what is filled. `filled`
    names the slots in the order of their rows, which is the order of every [n, ...] below.
    """

    def __init__(
        self,
        model_factory: Callable[[int], nn.Module],
        ports: Sequence[SitePort],
        *,
        slots: int,
        optimizer: Family,
        loss: str | Loss,
        precision: str = "float32",
        device: torch.device | str = "cpu",
        lane: Lane = "fused",
    ) -> None:
        """Build an empty pack.

        Args:
            model_factory: the user's model, not instrumented, with initial weights that are a
                function of the seed alone.
            ports: the columns of rates, in order.
            slots: K.
            optimizer: family, see `optim`.
            loss: name, see `losses`; or a user's own, see `own_loss`.
            precision: "float32", "float64" or "bfloat16", see `precision`.
            device: where it trains.
            lane: see `step`.
        """
        self.ports = tuple(ports)
        self.n_slots = slots
        self.filled: list[int] = []
        self.device, self.dtype = torch.device(device), DTYPES[precision]
        self.loss = loss_of(loss, lane)
        self._factory = model_factory
        model = self._build(0)
        self.rows = Rows(model, n_slots=slots, n_columns=len(self.ports))
        self.optimizer = Optimizer(
            optimizer, weight=self.rows.weight, gradient=self.rows.gradient, age=self.rows.step,
            penalised=self.rows.penalised,
        )  # fmt: skip
        instrument(model, self.ports)
        # Elsewhere the device's own graphs are the way; operations one by one gain little.
        records = self.device.type == "cpu"
        forward = computed_in(precision, forward_of(model, lane), self.device)
        self._parts = InParts(gradients_of(forward, self.loss), slots)
        self._train = Repeated(self._parts, self.rows, records=records, pads=lane == "fused")
        self.graphs = None if records else self._capture(pads=lane == "fused")
        evaluated = forward_of(copy.deepcopy(model).eval(), lane)
        self._evaluate = computed_in(precision, evaluated, self.device)
        self._examples = Chunked()

    def load(self, slot: int, trial: SlotTrial) -> None:
        """Begin a trial in an empty slot, from its initial weights.

        Raises:
            ValueError: the slot is filled or does not exist, or the trial does not fit the pack.
        """
        if slot in self.filled or not 0 <= slot < self.n_slots:
            raise ValueError(f"slot {slot} is not free; free are {sorted(self.free)}")
        rates = base_rates(trial, self.ports)
        row = len(self.filled)
        self.rows.write(row, self._build(trial.seed))
        self.rows.rates[row] = rates
        self.rows.seed[row] = mask_seed(trial.seed)
        self.rows.step[row] = 0
        self.optimizer.start(row, trial.params)
        self.filled.append(slot)

    def clear(self, slot: int) -> None:
        """End the trial of a slot; the last row moves into the gap."""
        row, last = self.filled.index(slot), len(self.filled) - 1
        if row != last:
            for tensor in (*self.rows.all, *self.optimizer.rows):
                tensor[row] = tensor[last]
            self.filled[row] = self.filled[last]
        self.optimizer.stop(last)
        self.filled.pop()

    @property
    def free(self) -> set[int]:
        """Slots without a trial."""
        return set(range(self.n_slots)) - set(self.filled)

    def rows_of(self, slots: Sequence[int]) -> list[int]:
        """The rows of these slots."""
        return [self.filled.index(slot) for slot in slots]

    def step(
        self, x: Inputs, y: Tensor, *, rates: Tensor | None = None, unit: Tensor | None = None
    ) -> Tensor:
        """Train every filled slot on one batch of its own.

        Args:
            x: [n, B, ...], or such tensors by name.
            y: [n, B] or [n, B, D].
            rates: [n, S], float32, in place of the rates so far; None leaves them.
            unit: [D], what one unit of output is in the units that losses are reported in.

        Returns:
            [n], the mean loss of each trial before the update, penalties left out.
        """
        n_rows = len(self.filled)
        if rates is not None:
            self.rows.rates[:n_rows] = rates
        output, losses = (self.graphs.run if self.graphs else self._step)(x, y)
        return losses.clone() if unit is None else self.loss(output * unit, y * unit).mean(1)

    @property
    def width(self) -> int:
        """Rows that are computed at once: all slots, unless memory ran out."""
        return self._parts.width

    @property
    def refusal(self) -> str:
        """Why no graph of the device runs the steps, in one line; empty when one does."""
        return self.graphs.refusal if self.graphs else ""

    def _step(self, x: Inputs, y: Tensor) -> Sequence[Tensor]:
        """Train the first rows on a batch of as many; [n, B, ...] outputs and [n] losses.

        Nothing in it waits for the device, and all that it changes are numbers in rows.
        """
        n_rows = len(y)
        self.rows.step[:n_rows] += 1
        output, losses = self._train.run(x, y)
        self.optimizer.step(n_rows)
        return output, losses

    def window(self, slots: Sequence[int] | None = None) -> Window:
        """The weights of these slots, in their order, to predict with; None: all, in `filled`."""
        if slots is None or list(slots) == self.filled:
            return self.rows.window(len(self.filled))
        return self.rows.select(self.rows_of(slots))

    @torch.no_grad()
    def predict(self, window: Window, x: Inputs) -> Tensor:
        """Outputs in evaluation mode, without dropout: [n, B, C or D].

        Args:
            window: whose weights.
            x: [B, ...], or such tensors by name; the same for every trial.
        """
        # Expanded, not shared by vmap: as fast, and training and evaluation have one form.
        n_trials = len(window.buffers[SEED])

        def outputs(x: Inputs) -> Tensor:
            if isinstance(x, dict):
                x = {name: t.expand(n_trials, *t.shape) for name, t in x.items()}
            else:
                x = x.expand(n_trials, *x.shape)
            return self._evaluate(window.parameters, window.buffers, x)

        return self._examples.run(outputs, x)

    def keep(self, slots: Sequence[int]) -> None:
        """Remember the weights of these slots."""
        self.rows.keep(self.rows_of(slots))

    def bring_back(self, slots: Sequence[int]) -> None:
        """Give these slots the weights that were kept; moments and step stay as they are."""
        self.rows.bring_back(self.rows_of(slots))

    def state_dict(self, slot: int) -> dict[str, Tensor]:
        """The `state_dict` of the user's own model with the weights of a slot."""
        return self.rows.read(self.filled.index(slot))

    def state(self, slot: int) -> SlotState:
        """All that is needed to go on with the trial elsewhere."""
        row = self.filled.index(slot)
        moments = tuple(moment[row].clone() for moment in self.optimizer.moments)
        return SlotState(self.rows.read(row), moments, int(self.rows.step[row]))

    def load_state(self, slot: int, state: SlotState) -> None:
        """Go on in a slot, which holds the same trial, from where another one left off."""
        row = self.filled.index(slot)
        self.rows.restore(row, state.model)
        self.rows.step[row] = state.step
        for moment, stored in zip(self.optimizer.moments, state.moments, strict=True):
            moment[row] = stored

    def _capture(self, *, pads: bool) -> Graphs:
        """The steps as graphs of the device."""
        pool = torch.cuda.graph_pool_handle()
        return Graphs(
            self._step, n_slots=self.n_slots, capture=partial(DeviceGraph, pool=pool), pads=pads,
            varying=(*self.rows.all, self.rows.gradient, *self.optimizer.rows),
        )  # fmt: skip

    def _build(self, seed: int) -> nn.Module:
        """The user's model; initial weights are drawn in its own precision, on the CPU."""
        return self._factory(seed).to(self.device, self.dtype)
