"""Before the first worker has registered, names of models and data sets cannot be judged."""

from functools import partial

from fastapi import Request

from dropt.api.deps import look_until
from dropt.jobs import catalogue
from dropt.tuning.service import Service

FIRST_WORKER_WAIT_S = 15  # a worker of `dropt run` imports torch for some seconds


async def wait_for_first_worker(request: Request, service: Service, project: str) -> None:
    """Return once a worker has told what it offers, or when it takes too long."""
    is_empty = partial(catalogue.is_empty, service, project=project)
    await look_until(request, is_empty, lambda empty: not empty, FIRST_WORKER_WAIT_S)
