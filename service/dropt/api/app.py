"""The application: everything is built here, nothing starts before its lifespan does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import Route

import dropt
from dropt.api import (
    answers,
    artifacts,
    catalogue,
    configs,
    datasets,
    help_pages,
    jobs,
    operation,
    trials,
    workers,
)
from dropt.api.dashboard import PREFIXES, Dashboard
from dropt.api.deps import PROJECT, refuse_unknown_query
from dropt.api.gate import Gate
from dropt.api.openapi import describe
from dropt.api.problems import answer_problems, documented
from dropt.settings import Settings
from dropt.storage import projects
from dropt.storage.engine import Database
from dropt.storage.files import ArtifactStore
from dropt.tuning.background import Background
from dropt.tuning.service import Service

N_UPLOADS = 4  # files stored at once; each holds a thread while its bytes come
N_LOOKS = 2  # of requests that wait, at a time
ROUTERS: tuple[APIRouter, ...] = (
    jobs.router, answers.router, configs.router, trials.router, datasets.router,
    catalogue.router, workers.router, artifacts.router, operation.router, help_pages.router,
)  # fmt: skip


def create_app(settings: Settings) -> FastAPI:
    """The service over the database and the state folder that the settings name.

    Raises:
        SchemaMismatch: the database has another schema.
        NotReady: it does not answer.
    """
    settings.state.mkdir(parents=True, exist_ok=True)
    service = Service(
        Database.open(settings.database_url), ArtifactStore(settings.state / "artifacts"),
        lease_s=settings.lease_seconds, heartbeat_s=settings.heartbeat_seconds,
    )  # fmt: skip
    background = Background(service)
    app = FastAPI(
        title="dropt", version=dropt.__version__, openapi_url="/openapi.json", docs_url=None,
        redoc_url=None, redirect_slashes=False, lifespan=partial(_lifespan, background),
        summary="Does dropout help this network, where, how much, and how sure are we?",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        responses={"default": documented("Any other problem.")},
    )  # fmt: skip
    app.state.settings, app.state.service = settings, service
    app.state.upload_limiter = anyio.CapacityLimiter(N_UPLOADS)
    app.state.look_limiter = anyio.CapacityLimiter(N_LOOKS)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(refuse_unknown_query)])
    dashboard = Dashboard(lambda: background.storage)
    for prefix in PREFIXES:
        app.mount(prefix, dashboard)
        app.router.routes.append(Route(prefix, dashboard))  # a mount begins below its prefix
    answer_problems(app)
    app.add_middleware(Gate, settings=settings)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]  # as FastAPI documents it
    return app


@asynccontextmanager
async def _lifespan(background: Background, app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await to_thread.run_sync(_prepare, service)
    await to_thread.run_sync(background.start)
    try:
        yield
    finally:
        await to_thread.run_sync(background.stop)
        service.database.close()


def _prepare(service: Service) -> None:
    service.artifacts.sweep()
    with service.database.writing() as session:
        projects.ensure(session, PROJECT)
