"""The dashboard of Optuna, on the prefixes that are compiled into it, for one project at a time.

It is read-only twice: by the gate, which admits GET and HEAD, and by its storage, which has no
method that writes.
"""

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from a2wsgi import WSGIMiddleware
from anyio import to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

from dropt.api.guard import CALLER
from dropt.errors import NotFound
from dropt.jobs.keys import Caller
from dropt.storage.engine import Database
from dropt.tuning.studies_view import ProjectStudies, study_ids

PREFIXES = ("/api", "/dashboard", "/static", "/csv", "/artifacts", "/favicon.ico")
N_THREADS = 4
_STUDY = re.compile(r"/+(?:api/+studies|csv|artifacts)/+(-?\d+)(?:/.*)?", re.ASCII)


def is_dashboard(path: str) -> bool:
    """Whether a path belongs to the dashboard."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in PREFIXES)


class Dashboard:
    """The dashboard as an ASGI app for mounts; loaded at the first request that wants it.

    Importing it takes 2.6 s, so it happens in a thread, and API requests do not wait for it.
    """

    def __init__(self, database: Database, open_storage: Callable[[], Any]) -> None:
        self._database = database
        self._open_storage = open_storage
        self._lock = anyio.Lock()
        self._apps: dict[str, ASGIApp] = {}  # by project: each caches what it has read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller = scope[CALLER]
        if study := _STUDY.fullmatch(scope["path"]):
            look = partial(study_ids, self._database, caller.project)
            if int(study[1]) not in await to_thread.run_sync(look):
                raise NotFound(f"No study {study[1]}")
        async with self._lock:
            if caller.project not in self._apps:
                load = partial(self._load, caller.project)
                self._apps[caller.project] = await to_thread.run_sync(load)
        # A mount strips its prefix; the paths inside the dashboard need it back.
        whole = dict(scope, root_path=scope.get("app_root_path", ""))
        await self._apps[caller.project](_with_encoding(whole), receive, send)

    def _load(self, project: str) -> ASGIApp:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the dashboard and what it imports
            import optuna_dashboard

        studies = ProjectStudies(self._open_storage(), partial(study_ids, self._database, project))
        app: Any = optuna_dashboard.wsgi(studies)
        return WSGIMiddleware(app, workers=N_THREADS)  # type: ignore[return-value]  # same protocol


def _with_encoding(scope: Scope) -> Scope:
    """Name an encoding when the client names none: the dashboard answers 500 without one."""
    if any(name == b"accept-encoding" for name, _ in scope["headers"]):
        return scope
    return dict(scope, headers=[*scope["headers"], (b"accept-encoding", b"identity")])
