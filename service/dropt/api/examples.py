"""One example for each body, checked by a test against the model that it is of."""

from typing import Annotated, Any, Final

from fastapi import Body

from dropt.spec.changes import Cancel, Clone, Extension, Stop
from dropt.spec.job import JobCreate
from dropt.spec.keys import KeyCreate
from dropt.spec.preview import LookAt
from dropt.spec.protocol import Heartbeat, LeaseRequest, Registration, Report

WORKER: Final = "wrk_01KARB0000000000000000000C"
TRIAL: Final = "trl_01KARB0000000000000000000B"


JOB: dict[str, Any] = {"model": "mlp", "dataset": "digits"}
ADVANCED_JOB: dict[str, Any] = {
    "name": "where does dropout help?",
    "labels": {"team": "vision"},
    "model": {"name": "mlp", "args": {"hidden": [128, 64]}},
    "dataset": {"name": "digits", "split": {"method": "hash", "seed": 1}},
    "objective": {"metric": "accuracy", "min_effect": 0.005},
    "compare": {"arms": ["without", "with", "textbook"]},
    "search": {
        "sites": [{"match": "layers.*:out", "rate": [0.05, 0.5]}],
        "also": {"lr": {"low": 0.0001, "high": 0.1, "log": True}, "l1": 0.0},
        "pruner": {"name": "successive_halving", "rungs": [0.34], "factor": 3},
        "seed": 7,
    },
    "training": {"epochs": 40, "batch_size": 128, "optimizer": "sgd"},
    "budget": {"trials": 100, "seconds": 1800},
    "evidence": {"effort": "thorough"},
}
CHANGE: dict[str, Any] = {"labels": {"team": "vision"}, "priority": 10}
CLONE: dict[str, Any] = {"training": {"epochs": 80}, "warm_start": True}
EXTENSION: dict[str, Any] = {"trials": 100}
STOP: dict[str, Any] = {"evidence": True}
LOOK: dict[str, Any] = {"dataset": "digits", "args": {"hidden": [128, 64]}}
REGISTRATION: dict[str, Any] = {
    "protocol": 1,
    "name": "gpu-7",
    "device": {"type": "cuda", "name": "NVIDIA H100", "memory_bytes": 85_000_000_000},
    "max_slots": 64,
    "versions": {"trainer": "dropt-trainer 0.1.0", "framework": "torch 2.13.0"},
    "lease_kinds": ["inspect", "train"],
    "kinds": ["element", "channel"],
    "schedules": ["constant"],
    "optimizers": ["adamw", "sgd"],
    "metrics": ["nll", "accuracy"],
    "models": [
        {
            "name": "mlp",
            "tasks": ["classification"],
            "args_schema": {"type": "object", "properties": {"hidden": {"type": "array"}}},
            "package": "dropt-trainer 0.1.0",
        }
    ],
    "datasets": [
        {
            "name": "digits",
            "sha256": "ac4c88e3aac26bb6198e8af3f784cd0be54513e08c5ce4ec60bfe3ee32931f58",
            "task": "classification",
            "rows": 1797,
            "input_shape": [64],
            "classes": 10,
            "licence": "CC BY 4.0",
            "split_rows": {"train": 1074, "validation": 354, "test": 369},
        }
    ],
}
KEY: dict[str, Any] = {"name": "ci of team vision", "scopes": ["jobs:read", "jobs:write"]}
HEARTBEAT: dict[str, Any] = {
    "leases": ["lea_01KARB0000000000000000000A"],
    "memory_free_bytes": 61_000_000_000,
}
LEASE_REQUEST: dict[str, Any] = {
    "worker": WORKER,
    "slots": 16,
    "memory_free_bytes": 61_000_000_000,
}
REPORT: dict[str, Any] = {
    "worker": WORKER,
    "sequence": 7,
    "free_slots": 1,
    "measurements": [
        {
            "trial": TRIAL,
            "attempt": 1,
            "epoch": 4,
            "train_loss": 0.21,
            "validation_loss": 0.34,
            "metrics": {"accuracy": 0.914},
            "seconds": 0.8,
        }
    ],
    "finished": [
        {
            "trial": TRIAL,
            "attempt": 1,
            "outcome": "completed",
            "epoch": 27,
            "best_epoch": 21,
            "values": {"validation": {"loss": 0.31, "accuracy": 0.921}},
        }
    ],
    "done": False,
}

ChangeBody = Annotated[
    dict[str, Any],
    Body(examples=[CHANGE], description="`name`, `labels`, `priority`, `notify`; any of them."),
]
CloneBody = Annotated[Clone, Body(examples=[CLONE])]
ExtensionBody = Annotated[Extension, Body(examples=[EXTENSION, {"evidence": "again"}])]
StopBody = Annotated[Stop, Body(examples=[STOP])]
CancelBody = Annotated[Cancel, Body(examples=[{"reason": "wrong data set"}])]
HeartbeatBody = Annotated[Heartbeat, Body(examples=[HEARTBEAT])]
KeyBody = Annotated[KeyCreate, Body(examples=[KEY])]
JobBody = Annotated[JobCreate, Body(examples=[JOB, ADVANCED_JOB])]
LookBody = Annotated[LookAt, Body(examples=[LOOK])]
LeaseRequestBody = Annotated[LeaseRequest, Body(examples=[LEASE_REQUEST])]
RegistrationBody = Annotated[Registration, Body(examples=[REGISTRATION])]
ReportBody = Annotated[Report, Body(examples=[REPORT])]
