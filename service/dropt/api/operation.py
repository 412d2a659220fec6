"""Is it alive, is it ready, what is it."""

import os
import platform
from importlib import metadata
from typing import Literal

from fastapi import APIRouter

import dropt
from dropt.api.deps import ServiceDep, SettingsDep
from dropt.api.problems import problems
from dropt.errors import NotReady
from dropt.spec.protocol import PROTOCOL
from dropt.spec.record import Answer
from dropt.storage import clock

router = APIRouter(tags=["operation"])


class Health(Answer):
    """The event loop turns."""

    status: Literal["alive"] = "alive"


class Readiness(Answer):
    """What is needed for work is there."""

    status: Literal["ready"] = "ready"
    checks: dict[str, Literal["ok"]]


class Version(Answer):
    """Versions, and the limits that requests meet."""

    dropt: str
    api: Literal["v1"] = "v1"
    protocol: int
    python: str
    optuna: str
    limits: dict[str, int | float]


@router.get("/healthz", operation_id="get_health")
async def get_health() -> Health:
    """Alive; the database is not asked."""
    return Health()


@router.get("/readyz", operation_id="get_readiness", responses=problems(NotReady))
def get_readiness(service: ServiceDep) -> Readiness:
    """Ready: the database answers and files can be stored."""
    with service.database.reading() as session:
        clock.now(session)
    if not os.access(service.artifacts.root, os.W_OK):
        raise NotReady(f"The folder {service.artifacts.root} cannot be written; change its owner")
    return Readiness(checks={"database": "ok", "storage": "ok"})


@router.get("/version", operation_id="get_version")
def get_version(settings: SettingsDep) -> Version:
    """Versions and limits."""
    return Version(
        dropt=dropt.__version__, protocol=PROTOCOL, python=platform.python_version(),
        optuna=metadata.version("optuna"), limits=settings.limits(),
    )  # fmt: skip
