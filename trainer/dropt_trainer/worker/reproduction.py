"""One trial trained again, alone, from its capsule, and compared with what it was.

`python -m dropt_trainer.worker.reproduction CAPSULE` prints the comparison as JSON. Masks, initial
weights and the order of the data are the same bit for bit; float32 sums are not, since the trial
may have trained beside others or on another device. How far rounding alone moves this very curve
is measured: the trial is trained a second time with every initial weight one step of float32 away.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from dropt.errors import DatasetUnreadable, DroptError
from dropt.spec.capsule import Capsule, Curve
from dropt_trainer import models
from dropt_trainer.data.files import load_npz
from dropt_trainer.data.prepare import Prepared, prepare
from dropt_trainer.data.streams import first_rows
from dropt_trainer.device import choose
from dropt_trainer.fused.driver import Driver, EpochEnd
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.precision import DTYPES
from dropt_trainer.inspect import inspect_model
from dropt_trainer.losses import LOSSES
from dropt_trainer.sites.ports import SitePort
from dropt_trainer.worker.assignments import ports_of, slot_trial
from dropt_trainer.worker.ends import Unsupported, finite
from dropt_trainer.worker.sources import installed, split_of
from dropt_trainer.worker.subjects import N_ROWS

FACTOR = 10.0  # times what one step of rounding does is still the same curve
LEAST = 1e-6  # relative; float32 losses hold no more

Factory = Callable[[int], nn.Module]
Losses = list[tuple[float | None, float | None]]  # training, validation; by epoch


@dataclass(frozen=True)
class Comparison:
    """A curve beside the one in the capsule; differences are relative to the losses.

    Attributes:
        epochs: number that both have.
        difference: the largest one to the capsule's training and validation losses.
        rounding: the largest one that a step of rounding in the initial weights makes.
        allowed: the largest `difference` that counts as the same curve.
        validation_loss: of the last epoch, by the capsule and now.
    """

    epochs: int
    difference: float
    rounding: float
    allowed: float
    validation_loss: tuple[float | None, float | None]

    @property
    def is_same(self) -> bool:
        return self.difference <= self.allowed


def reproduce(capsule: Capsule, folder: Path, device: torch.device) -> Comparison:
    """Train the trial of a capsule again and compare.

    Args:
        capsule: of a trial that has reported an epoch or more.
        folder: where the file `<sha256>.npz` of an uploaded data set is.
        device: to train on.

    Raises:
        DigestMismatch, DatasetUnreadable: the data set is not here as it was.
        Unsupported: the model built here is another one; or there is nothing to compare.
    """
    if not capsule.curve.epoch:
        raise Unsupported("its trial has reported no epoch: there is nothing to compare with")
    data = _data(capsule, folder, device)

    def factory(seed: int) -> nn.Module:
        return models.build(
            capsule.model.name, capsule.model.args, input_shape=data.input_shape,
            n_outputs=data.n_outputs, seed=seed, task=data.task, n_tokens=data.n_tokens,
            input_names=data.input_names,
        )  # fmt: skip

    ports = _ports(capsule, factory(capsule.trial.seed), data, device)
    now = train_alone(capsule, factory, ports, data, device)
    nudged = train_alone(capsule, lambda seed: _nudged(factory(seed)), ports, data, device)
    return compare(capsule.curve, _losses(now), _losses(nudged))


def train_alone(
    capsule: Capsule,
    factory: Factory,
    ports: tuple[SitePort, ...],
    data: Prepared,
    device: torch.device,
) -> list[EpochEnd]:
    """The epochs of the trial in a pack of one, as many as the capsule's curve has."""
    training = capsule.training
    pack = Pack(
        factory, ports, slots=1, optimizer=training.optimizer, loss=training.loss,
        precision=training.precision, device=device, lane="solo",
    )  # fmt: skip
    driver = Driver(
        pack, data, batch_size=training.batch_size, objective=capsule.objective.metric,
        direction=capsule.objective.direction, keep_best=False,
    )  # fmt: skip
    driver.load(0, slot_trial(capsule.trial, patience=None))
    ends: list[EpochEnd] = []
    while driver.slots and len(ends) < len(capsule.curve.epoch):
        ends += driver.run_epoch()
    return ends


def compare(curve: Curve, now: Losses, nudged: Losses) -> Comparison:
    """A curve, the same trained again, and the same with rounding of its initial weights."""
    then: Losses = list(zip(curve.train_loss, curve.validation_loss, strict=True))
    rounding = _difference(now, nudged)
    return Comparison(
        epochs=len(now), difference=_difference(then, now), rounding=rounding,
        allowed=max(LEAST, FACTOR * rounding), validation_loss=(then[-1][1], now[-1][1]),
    )  # fmt: skip


def _data(capsule: Capsule, folder: Path, device: torch.device) -> Prepared:
    """The training and validation rows: nothing here needs those of the test split."""
    asked = capsule.dataset
    if asked.content is None:
        dataset = installed(asked.name, asked.sha256)
    else:
        path = folder / f"{asked.sha256}.npz"
        if not path.exists():
            raise DatasetUnreadable(f"data set {asked.name!r} is not here: {path} does not exist")
        dataset = load_npz(path.read_bytes(), name=asked.name, sha256=asked.sha256)
    return prepare(
        dataset, split_of(dataset, asked.split), parts=("train", "validation"), device=device,
        dtype=DTYPES[capsule.training.precision],
    )  # fmt: skip


def _ports(
    capsule: Capsule, model: nn.Module, data: Prepared, device: torch.device
) -> tuple[SitePort, ...]:
    """The sites of the trial, in the model that was inspected."""
    rows = data.parts["train"]
    training = capsule.training
    found = inspect_model(
        model.to(device, DTYPES[training.precision]), first_rows(rows.x, N_ROWS), rows.y[:N_ROWS],
        LOSSES[training.loss],
    )  # fmt: skip
    asked = capsule.model.fingerprint
    if asked not in (None, found.fingerprint):
        raise Unsupported(
            f"model {capsule.model.name!r} has fingerprint {found.fingerprint} here, the trial "
            f"was trained with {asked}: another version of it is installed"
        )
    return ports_of({site: (each.kind,) for site, each in capsule.trial.sites.items()}, found)


def _nudged(model: nn.Module) -> nn.Module:
    """The model with each weight moved to the next number of its type."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.nextafter(weight, torch.full_like(weight, math.inf)))
    return model


def _losses(ends: list[EpochEnd]) -> Losses:
    return [(finite(end.train_loss), finite(end.validation.loss)) for end in ends]


def _difference(a: Losses, b: Losses) -> float:
    """The largest relative difference; infinite where only one is finite, or has ended early."""
    if len(a) != len(b):
        return math.inf
    pairs = [pair for x, y in zip(a, b, strict=True) for pair in zip(x, y, strict=True)]
    return max((_relative(one, other) for one, other in pairs), default=0.0)


def _relative(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    size = max(abs(one), abs(other))
    return abs(one - other) / size if size > 0.0 else 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison as JSON; status 2 and one line where there is none."""
    parser = argparse.ArgumentParser(description="Train the trial of a capsule again.")
    parser.add_argument("capsule", type=Path)
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the best one here)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        capsule = Capsule.model_validate_json(options.capsule.read_bytes())
        found = reproduce(capsule, options.capsule.parent, choose(options.device))
    except (OSError, ValueError, Unsupported, DroptError) as error:
        sys.stderr.write(f"dropt reproduce: {error}\n")
        sys.exit(2)
    json.dump({**asdict(found), "is_same": found.is_same}, sys.stdout)


if __name__ == "__main__":
    main()
