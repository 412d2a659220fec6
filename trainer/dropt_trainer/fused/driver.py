"""Epochs of a pack on a prepared data set: train, validate, keep the best, end and refill."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dropt_trainer.data.prepare import Prepared, Rows
from dropt_trainer.data.reading import Visit
from dropt_trainer.data.streams import chunks, training_batches
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import (
    Direction,
    Slot,
    SlotTrial,
    data_order,
    is_scheduled,
    planned_rates,
)
from dropt_trainer.metrics import METRICS, summarize

State = Literal["running", "finished", "diverged"]
EXAMPLES_AT_ONCE = 8192  # of all trials in one evaluation chunk; fewer or more were slower
LOGITS_AT_ONCE = 2**24  # likewise, where each step of an example has logits: 64 MiB in float32


@dataclass(frozen=True)
class Examples:
    """Scores of the single examples of a part, for one trial.

    Attributes:
        rows: [N], int64, numbers of the rows in the data set.
        loss: [N], float32; regression: in squared units of the target.
        prediction: [N, C] probabilities, or [N, D] in units of the target, or next token [N, T],
            the likeliest token at each step.
        target: [N] classes, or [N, D] in units of the target, or [N, T] tokens.
        group: [N], int64, or None.
    """

    rows: Tensor
    loss: Tensor
    prediction: Tensor
    target: Tensor
    group: Tensor | None


class Piece(NamedTuple):
    """Scores of some examples: losses [n, B], metrics [n, B] by name, predictions [n, B, ...].

    With predictions, `judged` [n, B] is the first metric of the task: evidence rests on it, while
    a user's own loss is for training alone.
    """

    losses: Tensor
    metrics: Mapping[str, Tensor]
    predictions: Tensor | None
    judged: Tensor


@dataclass(frozen=True)
class Scores:
    """What a trial reaches on a part, in evaluation mode: means over its examples."""

    loss: float
    metrics: Mapping[str, float]
    examples: Examples | None = None


@dataclass(frozen=True)
class EpochEnd:
    """One epoch of one trial.

    Attributes:
        epoch: counts from 1.
        train_loss: mean over the batches as they came, with dropout, penalties left out.
        validation: scores after the epoch.
        best_epoch: so far, by the objective; the earliest of equals.
        state: a diverged trial has left its slot, a finished one waits in it.
    """

    slot: int
    epoch: int
    train_loss: float
    validation: Scores
    best_epoch: int
    state: State


class Driver:
    """Trains the trials of a pack, each in its own epoch, and tells how they do.

    Slots may be loaded and cleared between two calls of `run_epoch`.
    """

    def __init__(
        self,
        pack: Pack,
        data: Prepared,
        *,
        batch_size: int,
        objective: str,
        direction: Direction,
        metrics: Sequence[str] = (),
        keep_best: bool = True,
    ) -> None:
        """Take a pack and its data.

        Args:
            pack: of the same device and precision as the data.
            data: with the parts `train` and `validation`.
            batch_size: B, see `batch_ends`.
            objective: the metric that decides the best epoch, and patience.
            direction: which way is better.
            metrics: names of others to report, see `metrics`.
            keep_best: `finish` scores the best epoch; else the last.
        """
        self.pack, self.data = pack, data
        self.slots: dict[int, Slot] = {}
        self._metrics = tuple(dict.fromkeys((objective, *metrics)))
        self._objective, self._direction, self._keep_best = objective, direction, keep_best
        self._ends = batch_ends(len(data.parts["train"]), batch_size)

    def load(self, slot: int, trial: SlotTrial) -> None:
        """Begin a trial in an empty slot."""
        self.pack.load(slot, trial)
        self.slots[slot] = Slot(trial, epoch=trial.first_epoch - 1)

    def clear(self, slot: int) -> None:
        """End the trial of a slot."""
        self.pack.clear(slot)
        del self.slots[slot]

    def run_epoch(self) -> list[EpochEnd]:
        """One pass over the training rows for every filled slot, then over the validation rows.

        A trial whose loss is not finite is reported and leaves its slot; the others never notice.
        """
        if not self.slots:
            return []
        train_losses = self._train()
        for slot in self.slots.values():
            slot.epoch += 1
        scores = self.evaluate("validation")
        better = [slot for slot in self.pack.filled if self._is_best(slot, scores[slot])]
        if self._keep_best:
            self.pack.keep(better)
        ends = [self._end(slot, train_losses[slot], scores[slot]) for slot in self.slots]
        for end in ends:
            if end.state == "diverged":
                self.clear(end.slot)
        return ends

    def evaluate(
        self, part: str, slots: Sequence[int] | None = None, *, per_example: bool = False
    ) -> dict[int, Scores]:
        """The scores of these slots (None: all that are filled) on a part, by slot.

        Losses, metrics and predictions of a regression are in units of the target.

        Raises:
            KeyError: the data was prepared without this part: it may not be read.
        """
        rows = self.data.parts[part]
        chosen = list(self.pack.filled if slots is None else slots)
        if not chosen:
            return {}
        pieces = [
            self._score(output, target, per_example=per_example)
            for output, target in self._outputs(rows, slots)
        ]
        losses = torch.cat([piece.losses for piece in pieces], 1)
        values = {n: torch.cat([piece.metrics[n] for piece in pieces], 1) for n in self._metrics}
        means = {n: summarize(n, each).tolist() for n, each in values.items()}
        loss_means: list[float] = losses.mean(1, dtype=torch.float64).tolist()
        predictions = [piece.predictions for piece in pieces if piece.predictions is not None]
        predicted = torch.cat(predictions, 1) if predictions else None
        judged = torch.cat([piece.judged for piece in pieces], 1)
        return {
            slot: Scores(
                loss=loss_means[i],
                metrics={name: values[i] for name, values in means.items()},
                examples=None
                if predicted is None
                else self._examples(rows, predicted[i], judged[i]),
            )
            for i, slot in enumerate(chosen)
        }

    def finish(
        self, slots: Sequence[int], parts: Sequence[str], *, per_example: bool = False
    ) -> dict[int, dict[str, Scores]]:
        """The final scores of these slots, of the best epoch unless told otherwise, by part.

        Each slot then holds the weights that were scored, and waits to be cleared.
        """
        if self._keep_best:
            self.pack.bring_back(slots)
        by_part = {part: self.evaluate(part, slots, per_example=per_example) for part in parts}
        return {slot: {part: by_part[part][slot] for part in parts} for slot in slots}

    def _train(self) -> dict[int, float]:
        """One pass over the training rows; the mean loss by slot."""
        rows, filled = self.data.parts["train"], self.pack.filled
        order = self._orders(len(rows))
        rates = self._rates()
        spans = list(pairwise((0, *self._ends)))
        targets = rows.y[order]
        batches = training_batches(rows.x, order, self._ends, self._visits())
        losses = [
            self.pack.step(
                x, targets[:, start:end], rates=None if rates is None else rates[step],
                unit=self.data.target_scale,
            )
            for step, ((start, end), x) in enumerate(zip(spans, batches, strict=True))
        ]  # fmt: skip
        sizes = torch.tensor([end - start for start, end in spans], dtype=torch.float64)
        means = sizes.to(order.device) @ torch.stack(losses).to(torch.float64) / len(rows)
        return dict(zip(filled, means.tolist(), strict=True))

    def _visits(self) -> list[Visit]:
        """[n]: each trial in its coming epoch."""
        held = [self.slots[slot] for slot in self.pack.filled]
        return [Visit(slot.trial.seed, slot.epoch + 1) for slot in held]

    def _orders(self, n_rows: int) -> Tensor:
        """[n, n_rows]: each trial's own order of the training rows in its coming epoch."""
        held = [self.slots[slot] for slot in self.pack.filled]
        orders = [data_order(slot.trial.seed, slot.epoch + 1, n_rows) for slot in held]
        return torch.stack(orders).to(self.pack.device)

    def _rates(self) -> Tensor | None:
        """[steps, n, S] for the coming epoch; None when no rate changes."""
        held = [self.slots[slot] for slot in self.pack.filled]
        if not any(is_scheduled(slot.trial) for slot in held):
            return None
        plans = [
            planned_rates(
                slot.trial, self.pack.ports, epoch=slot.epoch + 1, n_steps=len(self._ends)
            )
            for slot in held
        ]
        return torch.stack(plans, dim=1).to(self.pack.device)

    def _outputs(self, rows: Rows, slots: Sequence[int] | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Outputs in evaluation mode [n, B, C or D] and targets [n, B, ...], chunk by chunk.

        Both are in units of the target; all outputs at once may be larger than memory.
        """
        window = self.pack.window(slots)
        n_trials = len(next(iter(window.parameters.values())))
        start = 0
        for x in chunks(rows.x, len(rows), self._chunk_size(rows, n_trials)):
            output = self.pack.predict(window, x)
            target = rows.y[start : start + output.shape[1]]
            start += output.shape[1]
            target = target.expand(n_trials, *target.shape)
            unit = self.data.target_scale
            yield (output, target) if unit is None else (output * unit, target * unit)

    def _chunk_size(self, rows: Rows, n_trials: int) -> int:
        size = EXAMPLES_AT_ONCE // n_trials
        if self.data.task == "next_token":
            n_logits = rows.y.shape[1] * self.data.n_outputs
            size = min(size, LOGITS_AT_ONCE // (n_trials * n_logits))
        return max(1, size)

    def _score(self, output: Tensor, target: Tensor, *, per_example: bool) -> Piece:
        metrics = METRICS[self.data.task]
        losses = self.pack.loss(output, target)
        judge = next(iter(metrics.values()))
        return Piece(
            losses,
            {name: metrics[name](output, target) for name in self._metrics},
            self._predictions(output) if per_example else None,
            judge(output, target) if per_example else losses,
        )

    def _predictions(self, output: Tensor) -> Tensor:
        """What is predicted, see `Examples`, from outputs in units of the target."""
        if self.data.target_mean is not None:
            return output + self.data.target_mean
        return output.argmax(-1) if self.data.task == "next_token" else output.softmax(-1)

    def _examples(self, rows: Rows, predictions: Tensor, judged: Tensor) -> Examples:
        """One trial's scores of single examples."""
        target = rows.y
        if self.data.target_scale is not None and self.data.target_mean is not None:
            target = target * self.data.target_scale + self.data.target_mean
        return Examples(
            rows.rows, judged.float().cpu(), predictions.float().cpu(), target.cpu(), rows.group
        )

    def _is_best(self, slot: int, scores: Scores) -> bool:
        return self.slots[slot].judge(scores.metrics[self._objective], self._direction)

    def _end(self, slot: int, train_loss: float, validation: Scores) -> EpochEnd:
        held = self.slots[slot]
        state: State = "finished" if held.is_finished else "running"
        if not (isfinite(train_loss) and isfinite(validation.loss)):
            state = "diverged"
        return EpochEnd(slot, held.epoch, train_loss, validation, held.best_epoch, state)


def batch_ends(n_rows: int, batch_size: int) -> list[int]:
    """Where the batches of an epoch end: every row once, the last batch may be smaller.

    A last batch of one row joins the one before it, because batch norm has no variance over one.
    """
    ends = list(range(batch_size, n_rows, batch_size))
    if ends and batch_size > 1 and n_rows - ends[-1] == 1:
        ends.pop()
    return [*ends, n_rows]
