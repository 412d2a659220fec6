"""Every reference model on small data that suit it, in packs with a rate at every site."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dropt.spec.job import LOSS_OF
from dropt_trainer.data.dataset import Dataset, take
from dropt_trainer.data.prepare import Prepared, prepare
from dropt_trainer.data.splits import hash_split
from dropt_trainer.fused.driver import Driver
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import SlotTrial
from dropt_trainer.fused.step import Lane
from dropt_trainer.inspect import inspect_model
from dropt_trainer.losses import LOSSES
from dropt_trainer.models import build
from dropt_trainer.optim import Family, Params
from dropt_trainer.schedules import Schedule
from dropt_trainer.sites.instrument import SitePort

Precision = Literal["float32", "float64"]

N, N_CLASSES, BATCH = 30, 3, 6
DTYPES = {"float32": torch.float32, "float64": torch.float64}
PENALISED = {"weight_decay": 0.1, "l1": 1e-3, "l2": 1e-3, "clip": 0.5}


def images() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, 6, generator=generator)
    return Dataset(x, torch.arange(N) % N_CLASSES, "classification", N_CLASSES)


def tokens() -> Dataset:
    ids = torch.randint(0, 5, (N, 7), generator=torch.Generator().manual_seed(1))
    return Dataset(ids[:, :-1], ids[:, 1:], "next_token", 5, n_tokens=5)


def masked() -> Dataset:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(N, 5, 3, generator=generator)
    mask = torch.arange(5) < torch.randint(1, 6, (N, 1), generator=generator)
    labels = torch.arange(N) % N_CLASSES
    return Dataset({"x": x, "mask": mask}, labels, "classification", N_CLASSES, is_sequence=True)


@dataclass(frozen=True)
class Case:
    """A reference model on data that suit it; `kind` is the place among those of each site."""

    model: str
    args: Mapping[str, Any]
    dataset: Callable[[], Dataset] = images
    kind: int = 0
    family: Family = "adamw"

    def prepared(self, dtype: torch.dtype) -> Prepared:
        split = hash_split(N, seed=0, train=0.8, validation=0.2)
        return prepare(self.dataset(), split, parts=("validation",), dtype=dtype)

    def factory(self, data: Prepared) -> Callable[[int], nn.Module]:
        return lambda seed: build(
            self.model, self.args, input_shape=data.input_shape, n_outputs=data.n_outputs,
            seed=seed, task=data.task, n_tokens=data.n_tokens, input_names=data.input_names,
        )  # fmt: skip

    def driver(self, slots: int, lane: Lane, precision: Precision = "float64") -> Driver:
        """An empty pack with a column at every site of the model."""
        data = self.prepared(DTYPES[precision])
        rows, loss = data.parts["train"], LOSS_OF[data.task]
        assert isinstance(rows.x, Tensor | dict)
        factory, few = self.factory(data), torch.arange(4)
        found = inspect_model(
            factory(0).to(DTYPES[precision]), take(rows.x, few), rows.y[few], LOSSES[loss]
        )
        ports = [
            SitePort(one.site, one.kinds[self.kind], calls=one.calls, time_dim=one.time_dim)
            for one in found.sites
        ]
        pack = Pack(factory, ports, slots=slots, optimizer=self.family, loss=loss,
                    precision=precision, lane=lane)  # fmt: skip
        return Driver(pack, data, batch_size=BATCH, objective="nll", direction="minimize")


CASES = {
    "mlp": Case("mlp", {"hidden": [8]}, family="sgd"),
    "mlp-bn": Case("mlp", {"hidden": [8, 6], "batch_norm": True}, kind=-1),
    "cnn-bn": Case("cnn", {"channels": [3], "hidden": 6, "batch_norm": True}),
    "resnet": Case("resnet", {"channels": [2], "blocks": 1}, kind=-1),
    "lstm": Case("lstm", {"hidden": 5, "embedding": 4}, tokens, kind=-1),
    "gru": Case("gru", {"hidden": 5, "embedding": 4}, masked, family="sgd"),
    "transformer": Case("transformer", {"width": 4, "feedforward": 6, "depth": 1}, tokens, -1),
}


def trial(seed: int, epochs: int, ports: tuple[SitePort, ...]) -> SlotTrial:
    """One of its own rates, penalties and schedules."""
    rates = {port.site: (seed + i) % 4 / 5 for i, port in enumerate(ports)}
    schedules = {port.site: Schedule("ramp", 3.0) for port in ports[seed % 2 :: 2]}
    params = Params(lr=0.01 / (1 + seed), **(PENALISED if seed % 2 else {}))
    return SlotTrial(seed, epochs, params, rates, schedules)
