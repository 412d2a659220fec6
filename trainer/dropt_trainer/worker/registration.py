"""What a worker says of itself when it registers."""

from importlib import metadata

import torch

from dropt.spec.job import METRICS_OF
from dropt.spec.protocol import PROTOCOL, Device, ModelOffer, Registration
from dropt_trainer import device as devices
from dropt_trainer import models
from dropt_trainer.data import builtin
from dropt_trainer.dropout.kinds import KINDS
from dropt_trainer.optim import N_MOMENTS
from dropt_trainer.schedules import SCHEDULES
from dropt_trainer.worker.sources import offer_of


def registration(name: str, device: torch.device, max_slots: int) -> Registration:
    """Everything that this worker is and offers."""
    about = devices.describe(device)
    package = f"dropt {metadata.version('dropt')}"
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
        metrics=tuple(dict.fromkeys(m for metrics in METRICS_OF.values() for m in metrics)),
        models=tuple(
            ModelOffer.model_validate(
                {"name": model, "tasks": models.tasks(model), "package": package,
                 "args_schema": models.args_schema(model)}
            )
            for model in models.MODELS
        ),
        datasets=tuple(offer_of(builtin.load(dataset)) for dataset in builtin.DATASETS),
    )  # fmt: skip
