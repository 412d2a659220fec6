"""What one slot of a pack holds: a trial, how far it is, and its best epoch."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from dropt_trainer.optim import Params
from dropt_trainer.schedules import Schedule, factor
from dropt_trainer.sites.instrument import SitePort

Direction = Literal["minimize", "maximize"]
CONSTANT = Schedule()


@dataclass(frozen=True)
class SlotTrial:
    """One trial: everything in which it differs from its pack-mates.

    Attributes:
        seed: of initial weights, data order and masks.
        epochs: passes over the training rows in all, the ones before `first_epoch` counted.
        params: optimizer settings.
        rates: by site; a site that is not named has rate 0.
        schedules: by site; a site that is not named is constant.
        kinds: by site; needed only where the pack has a site in several kinds.
        first_epoch: above 1 for a trial that goes on from a checkpoint.
        patience: epochs without a better validation value after which the trial ends; None: all.
    """

    seed: int
    epochs: int
    params: Params
    rates: Mapping[str, float] = field(default_factory=dict)
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    first_epoch: int = 1
    patience: int | None = None


@dataclass
class Slot:
    """A trial in training.

    Attributes:
        epoch: passes over the training rows so far.
        best_epoch: the one with the best validation value; the earliest of equals, 0 for none.
        best_value: that value.
    """

    trial: SlotTrial
    epoch: int
    best_epoch: int = 0
    best_value: float = float("nan")

    def judge(self, value: float, direction: Direction) -> bool:
        """Take the validation value of this epoch; whether it is the best so far."""
        better = value > self.best_value if direction == "maximize" else value < self.best_value
        if better or self.best_epoch == 0:
            self.best_epoch, self.best_value = self.epoch, value
            return True
        return False

    @property
    def is_finished(self) -> bool:
        """All epochs are done, or patience has run out."""
        patience = self.trial.patience
        waited = self.epoch - self.best_epoch
        out_of_patience = patience is not None and self.best_epoch > 0 and waited >= patience
        return self.epoch >= self.trial.epochs or out_of_patience


def data_order(seed: int, epoch: int, n_rows: int) -> Tensor:
    """The order in which a trial sees the training rows in an epoch: [n_rows], int64, on the CPU.

    A function of its arguments alone: nothing has to be stored for a restart, and equal seeds in
    different arms see the same batches.
    """
    digest = hashlib.sha256(f"order:{seed}:{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.randperm(n_rows, generator=generator)


def base_rates(trial: SlotTrial, ports: Sequence[SitePort]) -> Tensor:
    """The rates of a trial before any schedule: [S], float64, one per port.

    Raises:
        ValueError: the trial names a site, or a kind at a site, that the pack has not.
    """
    rates = torch.zeros(len(ports), dtype=torch.float64)
    for site, rate in trial.rates.items():
        rates[_column(site, trial.kinds.get(site), ports)] = rate
    return rates


def planned_rates(
    trial: SlotTrial, ports: Sequence[SitePort], *, epoch: int, n_steps: int
) -> Tensor:
    """The rates at each step of an epoch: [n_steps, S], float32.

    `epoch` counts from 1; at step i, `epoch - 1 + i / n_steps` epochs have passed. The product is
    taken in float64 and rounded once, so that a mask depends on nothing but the numbers asked for.
    """
    rates = base_rates(trial, ports).expand(n_steps, -1).clone()
    passed = epoch - 1 + torch.arange(n_steps, dtype=torch.float64) / n_steps
    for column, port in enumerate(ports):
        rates[:, column] *= factor(trial.schedules.get(port.site, CONSTANT), passed)
    return rates.to(torch.float32)


def is_scheduled(trial: SlotTrial) -> bool:
    """Whether any rate changes in training."""
    return any(schedule.name != "constant" for schedule in trial.schedules.values())


def _column(site: str, kind: str | None, ports: Sequence[SitePort]) -> int:
    """The one port of this site, and of this kind where one is named."""
    columns = [i for i, p in enumerate(ports) if p.site == site and kind in (None, p.kind)]
    if len(columns) == 1:
        return columns[0]
    known = ", ".join(f"{p.site} ({p.kind})" for p in ports)
    asked = site if kind is None else f"{site} ({kind})"
    raise ValueError(f"site {asked} fits {len(columns)} ports of the pack, expected 1 of: {known}")
