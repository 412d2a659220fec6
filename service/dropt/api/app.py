"""The application: everything is built here, nothing starts before its lifespan does."""

from collections.abc import AsyncIterator, Sequence
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
    keys,
    login,
    operation,
    report,
    stream,
    trials,
    verbs,
    workers,
)
from dropt.api.dashboard import PREFIXES, Dashboard
from dropt.api.deps import refuse_unknown_query
from dropt.api.gate import Gate
from dropt.api.guard import Guard, OwnKey
from dropt.api.openapi import describe
from dropt.api.problems import answer_problems, documented
from dropt.api.report import Reports
from dropt.errors import KeyNeeded
from dropt.jobs import keys as stored_keys
from dropt.jobs.upkeep import Upkeep
from dropt.settings import Settings, is_loopback
from dropt.spec.webhooks import WebhookRules
from dropt.storage import projects
from dropt.storage.engine import Database
from dropt.storage.files import ArtifactStore
from dropt.tuning.background import Background
from dropt.tuning.service import Quotas, Service

N_UPLOADS = 4  # files stored at once; each holds a thread while its bytes come
N_LOOKS = 2  # of requests that wait, at a time
ROUTERS: tuple[APIRouter, ...] = (
    jobs.router, verbs.router, stream.router, answers.router, report.router, configs.router,
    trials.router, datasets.router, catalogue.router, workers.router, artifacts.router,
    keys.router, operation.router, help_pages.router, login.router,
)  # fmt: skip


def create_app(settings: Settings, own_keys: Sequence[OwnKey] = ()) -> FastAPI:
    """The service over the database and the state folder that the settings name.

    `own_keys` are admitted besides those of the database and of the settings.

    Raises:
        SchemaMismatch: the database has another schema.
        NotReady: it does not answer.
        KeyNeeded: other machines could reach it, and nobody has a key.
    """
    settings.state.mkdir(parents=True, exist_ok=True)
    database = _opened(settings)
    service = Service(
        database, ArtifactStore(settings.state / "artifacts"), lease_s=settings.lease_seconds,
        heartbeat_s=settings.heartbeat_seconds, quotas=_quotas(settings),
        webhooks=WebhookRules(settings.listeners(), settings.webhook_private),
    )  # fmt: skip
    background = Background(service)
    app = FastAPI(
        title="dropt", version=dropt.__version__, openapi_url="/openapi.json", docs_url=None,
        redoc_url=None, redirect_slashes=False,
        lifespan=partial(_lifespan, background, Upkeep(service)),
        summary="Does dropout help this network, where, how much, and how sure are we?",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        responses={"default": documented("Any other problem.")},
    )  # fmt: skip
    app.state.settings, app.state.service = settings, service
    app.state.upload_limiter = anyio.CapacityLimiter(N_UPLOADS)
    app.state.look_limiter = anyio.CapacityLimiter(N_LOOKS)
    app.state.reports = Reports()
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(refuse_unknown_query)])
    dashboard = Dashboard(database, lambda: background.storage)
    for prefix in PREFIXES:
        app.mount(prefix, dashboard)
        app.router.routes.append(Route(prefix, dashboard))  # a mount begins below its prefix
    answer_problems(app)
    app.state.guard = Guard(settings, database, own_keys)
    app.add_middleware(Gate, settings=settings, guard=app.state.guard)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]  # as FastAPI documents it
    return app


@asynccontextmanager
async def _lifespan(background: Background, upkeep: Upkeep, app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await to_thread.run_sync(_prepare, service)
    await to_thread.run_sync(background.start)
    upkeep.start()
    try:
        yield
    finally:
        await to_thread.run_sync(upkeep.stop)
        await to_thread.run_sync(background.stop)
        service.database.close()


def _prepare(service: Service) -> None:
    service.artifacts.sweep()
    with service.database.writing() as session:
        projects.ensure(session, projects.DEFAULT)


def _opened(settings: Settings) -> Database:
    database = Database.open(settings.database_url)
    is_closed = settings.admin_key is not None or is_loopback(settings.host)
    if not settings.no_auth and not is_closed and not stored_keys.any_exist(database):
        database.close()
        raise KeyNeeded(
            f"Other machines can reach {settings.host}, and there is no key yet. Make one: "
            f"{stored_keys.NEW_KEY} --state {settings.state}. Or listen on 127.0.0.1, or say "
            "DROPT_NO_AUTH=1 if everybody on this network may do everything."
        )
    return database


def _quotas(settings: Settings) -> Quotas:
    return Quotas(
        queued_jobs=settings.limit_queued_jobs, running_jobs=settings.limit_running_jobs,
        open_trials=settings.limit_open_trials,
    )  # fmt: skip
