"""Training written down once more: the bare model, torch.optim, masks from their definition."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dropt_trainer.fused.slots import SlotTrial, data_order
from dropt_trainer.optim import Family
from dropt_trainer.schedules import Schedule


def masks_in_numpy(
    seed: int, site: str, rate: float, step: int, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which elements are kept at the first call of a site in a training forward."""
    g, wrap = np.uint32(0x9E3779B9), np.uint32

    def mix(h: NDArray[np.uint32]) -> NDArray[np.uint32]:
        h = (h ^ (h >> wrap(16))) * wrap(0x85EBCA6B)
        h = (h ^ (h >> wrap(13))) * wrap(0xC2B2AE35)
        return h ^ (h >> wrap(16))

    lo, hi = np.frombuffer(hashlib.sha256(f"masks:{seed}".encode()).digest()[:8], "<u4")[:, None]
    key = np.frombuffer(hashlib.sha256(site.encode()).digest()[:4], "<u4")
    a = mix(mix(mix(lo ^ key * g) + np.array([step], dtype=np.uint32) * g))
    b = mix(mix(hi + key) ^ a)
    u = mix(mix(np.arange(math.prod(shape), dtype=np.uint32) * g ^ a) + b) >> wrap(8)
    kept: NDArray[np.bool_] = u >= int(np.float32(rate) * 2**24)
    return kept.reshape(shape)


@dataclass
class Dropping:
    """A forward hook that drops what the definition says, in elements or whole channels."""

    trial: SlotTrial
    site: str
    kind: str
    step: int = 0
    passed: float = 0.0

    def __call__(self, module: nn.Module, args: object, output: Tensor) -> Tensor:
        if not module.training:
            return output
        rate = self.trial.rates.get(self.site, 0.0) * self.factor()
        rate = float(np.float32(rate))
        shape = output.shape if self.kind == "element" else output.shape[:2]
        kept = masks_in_numpy(self.trial.seed, self.site, rate, self.step, tuple(shape))
        mask = torch.from_numpy(kept).view(*shape, *[1] * (output.ndim - len(shape)))
        return torch.where(mask, output / (1 - rate), 0.0)

    def factor(self) -> float:
        schedule = self.trial.schedules.get(self.site, Schedule())
        if schedule.name == "early":
            return max(0.0, 1 - self.passed / schedule.at)
        if schedule.name == "ramp":
            return min(1.0, self.passed / schedule.at)
        if schedule.name == "late":
            return float(self.passed >= schedule.at)
        return 1.0


def train_alone(
    model: nn.Module,
    trial: SlotTrial,
    kinds: Mapping[str, str],
    *,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    family: Family,
) -> list[float]:
    """The loss of every training step of a trial of classification, before penalties."""
    drops = [Dropping(trial, site, kind) for site, kind in kinds.items()]
    for drop in drops:
        model.get_submodule(drop.site.rpartition(":")[0]).register_forward_hook(drop)
    optimizer = optimizer_of(model, trial, family)
    losses: list[float] = []
    for epoch in range(1, trial.epochs + 1):
        order = data_order(trial.seed, epoch, len(x))
        batches = [order[start : start + batch_size] for start in range(0, len(x), batch_size)]
        for number, rows in enumerate(batches):
            for drop in drops:
                drop.step = len(losses) + 1
                drop.passed = epoch - 1 + number / len(batches)
            loss = functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            torch.autograd.backward([loss + penalty(model, trial)])
            clip_and_decay(model, trial, decay=family == "sgd")
            optimizer.step()
            losses.append(loss.item())
    return losses


def optimizer_of(model: nn.Module, trial: SlotTrial, family: Family) -> torch.optim.Optimizer:
    lr, weight_decay = trial.params.lr, trial.params.weight_decay
    if family == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True)


def penalty(model: nn.Module, trial: SlotTrial) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for p in model.parameters():
        if p.ndim >= 2:
            total = total + trial.params.l1 * p.abs().sum() + trial.params.l2 * p.square().sum()
    return total


def clip_and_decay(model: nn.Module, trial: SlotTrial, *, decay: bool) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.cat([g.reshape(-1) for g in gradients]).norm()
    if trial.params.clip is not None:
        for gradient in gradients:
            gradient.mul_(min(1.0, trial.params.clip / float(norm)))
    if decay:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 - trial.params.lr * trial.params.weight_decay)
