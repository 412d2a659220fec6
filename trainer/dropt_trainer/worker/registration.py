"""What a worker says of itself when it registers."""

from importlib import metadata

import torch

from dropt.spec.job import ALSO_REPORTED, METRICS_OF
from dropt.spec.protocol import PROTOCOL, Device, LossOffer, ModelOffer, Registration
from dropt_trainer import device as devices
from dropt_trainer import models
from dropt_trainer.data import builtin
from dropt_trainer.dropout.kinds import KINDS
from dropt_trainer.losses import LOSSES
from dropt_trainer.models.arguments import arguments_schema
from dropt_trainer.optim import N_MOMENTS
from dropt_trainer.schedules import SCHEDULES
from dropt_trainer.worker.plugins import Plugins
from dropt_trainer.worker.sources import offer_of

NO_PLUGINS = Plugins()


def registration(
    name: str, device: torch.device, max_slots: int, plugins: Plugins = NO_PLUGINS
) -> Registration:
    """Everything that this worker is and offers, the users' own among it."""
    about = devices.describe(device)
    package = f"dropt {metadata.version('dropt')}"
    told = (*METRICS_OF.values(), *ALSO_REPORTED.values())
    return Registration(
        protocol=PROTOCOL,
        name=name,
        device=Device(type=about.type, name=about.name[:200], memory_bytes=about.memory_bytes),
        max_slots=max_slots,
        versions={"trainer": package, "framework": f"torch {torch.__version__}"},
        lease_kinds=("inspect", "train"),
        kinds=KINDS,
        schedules=tuple(SCHEDULES),
        optimizers=tuple(N_MOMENTS),
        metrics=tuple(dict.fromkeys(metric for metrics in told for metric in metrics)),
        models=(*_model_offers(package), *_own_models(plugins)),
        datasets=(
            *(offer_of(builtin.load(dataset)) for dataset in builtin.DATASETS),
            *(offer_of(dataset) for dataset in plugins.datasets.values()),
        ),
        losses=(
            *(LossOffer(name=loss, package=package) for loss in LOSSES),
            *(LossOffer(name=n, package=own.package) for n, own in plugins.losses.items()),
        ),
    )  # fmt: skip


def _model_offers(package: str) -> list[ModelOffer]:
    return [
        ModelOffer.model_validate(
            {"name": model, "tasks": models.tasks(model), "package": package,
             "args_schema": models.args_schema(model)}
        )
        for model in models.MODELS
    ]  # fmt: skip


def _own_models(plugins: Plugins) -> list[ModelOffer]:
    return [
        ModelOffer(
            name=name,
            tasks=own.tasks,
            package=own.package,
            args_schema=arguments_schema(own.build),
        )
        for name, own in plugins.models.items()
    ]
