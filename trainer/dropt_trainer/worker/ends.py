"""How a trial ended, in the words of the protocol."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch

from dropt.errors import DatasetUnreadable, DigestMismatch
from dropt.spec.job import Metric
from dropt.spec.protocol import Finished, Reason, SplitName, TrialAssignment
from dropt_trainer.fused.driver import Scores

MAX_DETAIL = 500
Value = Literal["loss"] | Metric
Values = dict[SplitName, dict[Value, float | None]]


class Unsupported(Exception):
    """The lease asks for something that this worker cannot do as it is asked for."""


@dataclass
class Tenant:
    """A trial in a slot.

    Attributes:
        epoch: passes over the training rows so far.
        best: validation scores of its best epoch so far, which is `best_epoch`.
    """

    trial: TrialAssignment
    epoch: int
    best_epoch: int | None = None
    best: Scores | None = None


def completed(
    tenant: Tenant, scores: Mapping[str, Scores], files: Mapping[str, bytes]
) -> Finished:
    """The end of a trial that was trained as planned; one value that is not finite fails it."""
    values: Values = {cast("SplitName", part): values_of(each) for part, each in scores.items()}
    if any(value is None for part in values.values() for value in part.values()):
        return diverged(tenant)
    return Finished(
        trial=tenant.trial.id, attempt=tenant.trial.attempt, outcome="completed",
        epoch=tenant.epoch, best_epoch=tenant.best_epoch, values=values,
        scores={
            cast("SplitName", part): hashlib.sha256(file).hexdigest()
            for part, file in files.items()
        },
    )  # fmt: skip


def pruned(tenant: Tenant) -> Finished:
    """The end of a trial that the service stopped, with the best that it reached."""
    values: Values = {} if tenant.best is None else {"validation": values_of(tenant.best)}
    return Finished(
        trial=tenant.trial.id, attempt=tenant.trial.attempt, outcome="pruned",
        epoch=tenant.epoch, best_epoch=tenant.best_epoch, values=values,
    )  # fmt: skip


def diverged(tenant: Tenant) -> Finished:
    """The end of a trial whose loss is not finite."""
    return Finished(
        trial=tenant.trial.id, attempt=tenant.trial.attempt, outcome="failed",
        epoch=tenant.epoch, reason="diverged", detail="the loss is not finite",
    )  # fmt: skip


def failed(trial: TrialAssignment, epoch: int, error: Exception) -> Finished:
    """The end of a trial that an error stopped."""
    return Finished(
        trial=trial.id, attempt=trial.attempt, outcome="failed", epoch=epoch,
        reason=reason_of(error), detail=detail_of(error),
    )  # fmt: skip


def values_of(scores: Scores) -> dict[Value, float | None]:
    """Loss and metrics; JSON has no NaN, so what is not finite is None."""
    values: dict[Value, float | None] = {"loss": finite(scores.loss)}
    for name, value in metrics_of(scores).items():
        values[name] = value
    return values


def metrics_of(scores: Scores) -> dict[Metric, float | None]:
    """The metrics alone, likewise."""
    return {cast("Metric", name): finite(value) for name, value in scores.metrics.items()}


def finite(value: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def reason_of(error: Exception) -> Reason:
    """What the service has to know of an error in training."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out_of_memory"
    if isinstance(error, DigestMismatch | DatasetUnreadable):
        return "data"
    return "unsupported" if isinstance(error, Unsupported) else "error"


def detail_of(error: Exception) -> str:
    """The error in one line of at most 500 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:MAX_DETAIL]
