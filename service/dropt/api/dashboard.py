"""The dashboard of Optuna, on the prefixes that are compiled into it; read-only by the gate."""

import warnings
from collections.abc import Callable
from typing import Any

import anyio
from a2wsgi import WSGIMiddleware
from anyio import to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIXES = ("/api", "/dashboard", "/static", "/csv", "/artifacts", "/favicon.ico")
N_THREADS = 4


def is_dashboard(path: str) -> bool:
    """Whether a path belongs to the dashboard."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in PREFIXES)


class Dashboard:
    """The dashboard as an ASGI app for mounts; loaded at the first request that wants it.

    Importing it takes 2.6 s, so it happens in a thread, and API requests do not wait for it.
    """

    def __init__(self, open_storage: Callable[[], object]) -> None:
        self._open_storage = open_storage
        self._lock = anyio.Lock()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._lock:
            if self._app is None:
                self._app = await to_thread.run_sync(self._load)
        # A mount strips its prefix; the paths inside the dashboard need it back.
        whole = dict(scope, root_path=scope.get("app_root_path", ""))
        await self._app(_with_encoding(whole), receive, send)

    def _load(self) -> ASGIApp:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the dashboard and what it imports
            import optuna_dashboard

        app: Any = optuna_dashboard.wsgi(self._open_storage())
        return WSGIMiddleware(app, workers=N_THREADS)  # type: ignore[return-value]  # same protocol


def _with_encoding(scope: Scope) -> Scope:
    """Name an encoding when the client names none: the dashboard answers 500 without one."""
    if any(name == b"accept-encoding" for name, _ in scope["headers"]):
        return scope
    return dict(scope, headers=[*scope["headers"], (b"accept-encoding", b"identity")])
