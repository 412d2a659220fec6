import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.service.api.probes import HOSTILE, assert_problem

from dropt.api.app import create_app
from dropt.api.dashboard import PREFIXES, is_dashboard
from dropt.api.gate import Gate
from dropt.api.guard import Guard
from dropt.settings import Settings
from dropt.storage.engine import Database

JSON = {"Content-Type": "application/json"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


@pytest.mark.parametrize(
    ("body", "code"), [(row[1], row[2].code) for row in HOSTILE], ids=[r[0] for r in HOSTILE]
)
def test_hostile_json_gets_a_problem_of_one_shape(
    shared: TestClient, body: bytes, code: str
) -> None:
    response = shared.post("/v1/jobs", content=body, headers=JSON)
    if not body:
        assert_problem(response, 422, "validation")
    else:
        assert_problem(response, 400 if code == "not-json" else 422, code)


def test_large_body_is_refused_by_its_length(shared: TestClient) -> None:
    body = json.dumps({"model": "x" * (1 << 20)})
    problem = assert_problem(shared.post("/v1/jobs", content=body, headers=JSON), 413, "too-large")
    assert problem["limit_bytes"] == 1 << 20


def test_large_body_without_length_is_refused_while_it_comes(shared: TestClient) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(50):
            sent += 1
            yield b" " * (1 << 20)

    assert_problem(shared.post("/v1/jobs", content=chunks(), headers=JSON), 413, "too-large")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8123", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "[::1]:8"]
)
def test_names_of_this_machine_are_admitted(shared: TestClient, host: str) -> None:
    assert shared.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost@evil", "",
     "localhost:8000x", "192.168.0.5", "127.0.0.2", "0.0.0.0"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/jobs", "/version", "/api/studies", "/dashboard/", "/nope"])
def test_foreign_host_is_refused_everywhere(shared: TestClient, host: str, path: str) -> None:
    assert_problem(shared.get(path, headers={"Host": host}), 403, "host-not-allowed")


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "x-forwarded-host"])
def test_proxies_are_refused_without_keys(shared: TestClient, name: str) -> None:
    assert_problem(shared.get("/v1/jobs", headers={name: "x"}), 403, "host-not-allowed")


def test_open_service_admits_other_names(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"no_auth": True, "host": "0.0.0.0"}))
    with TestClient(app, base_url="http://service.example") as client:
        assert client.get("/v1/jobs", headers={"X-Forwarded-For": "x"}).status_code == 200


def test_body_of_another_type_is_answered_with_the_right_command(shared: TestClient) -> None:
    response = shared.post("/v1/jobs", data={"model": "mlp"})
    detail = assert_problem(response, 415, "json-expected")["detail"]
    assert "application/x-www-form-urlencoded" in detail
    assert detail.endswith(
        """curl --json '{"model": "mlp", "dataset": "digits"}' localhost/v1/jobs"""
    )


def test_command_repeats_the_body_that_was_meant(shared: TestClient) -> None:
    body = """{"model": "it's", "dataset": "digits"}"""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    detail = shared.post("/v1/jobs", content=body, headers=headers).json()["detail"]
    assert """--json '{"model": "it'"'"'s", "dataset": "digits"}'""" in detail


def test_json_with_a_charset_is_json(shared: TestClient) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert_problem(shared.post("/v1/jobs", content="[]", headers=headers), 422, "validation")


def test_gate_covers_every_mount(shared: TestClient) -> None:
    app = shared.app
    assert isinstance(app, FastAPI)
    mounts = [route for route in app.routes if isinstance(route, Mount)]
    assert {mount.path for mount in mounts} == set(PREFIXES)
    for mount in mounts:
        for method in METHODS[2:]:
            for path in (mount.path, f"{mount.path}/", f"{mount.path}/studies/1"):
                response = shared.request(method, path)
                assert_problem(response, 405, "dashboard-read-only")
                assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.slow
def test_every_route_answers_every_method_without_a_fault(shared: TestClient) -> None:
    app = shared.app
    assert isinstance(app, FastAPI)
    paths = {route.path or "" for route in iter_route_contexts(app.routes)}
    paths = {path for path in paths if not is_dashboard(path) and path != "/login"}
    assert len(paths) > 20
    for path in paths:
        for method in METHODS:
            response = shared.request(method, path)
            assert response.status_code < 500, (method, path)
            assert len(response.headers["X-Request-Id"]) == 26
            if response.status_code == 405:
                assert method not in response.headers["Allow"].split(", ")
            if response.status_code >= 400:
                assert response.headers["content-type"] == "application/problem+json"


def scope(**changes: Any) -> Scope:
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    return {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": headers, **changes}


def gate_before(app: ASGIApp, **values: Any) -> Gate:
    """The gate of a service that asks for no keys, so the database is never opened."""
    settings = Settings(no_auth=True, **values)
    return Gate(app, settings, Guard(settings, Database(settings.database_url)))


def run(gate: Gate, scope: Scope, receive: Receive) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    return sent


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass


async def fail(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a secret of the service")


async def never() -> Message:
    await asyncio.sleep(60)
    raise AssertionError("the gate waits too long")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets"])
def test_body_that_does_not_come_is_given_up(path: str) -> None:
    gate = gate_before(read_all, limit_body_seconds=0.05)
    headers = [*scope()["headers"], (b"transfer-encoding", b"chunked")]
    start, body = run(gate, scope(path=path, headers=headers), never)
    assert start["status"] == 408
    assert json.loads(body["body"])["type"] == "/problems/slow-body"


@pytest.mark.parametrize("path", ["/v1/datasets", "/v1/artifacts/x"])
def test_files_are_counted_while_they_come(path: str) -> None:
    limits = {"limit_upload_bytes": 1024, "limit_artifact_bytes": 1024}
    n_received = 0

    async def endless() -> Message:
        nonlocal n_received
        n_received += 1
        return {"type": "shared.request", "body": bytes(300), "more_body": True}

    method = "PUT" if "artifacts" in path else "POST"
    start, _ = run(gate_before(read_all, **limits), scope(path=path, method=method), endless)
    assert (start["status"], n_received) == (413, 4)


def test_fault_of_the_service_is_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    start, body = run(gate_before(fail), scope(method="GET"), never)
    problem = json.loads(body["body"])
    assert (start["status"], problem["type"]) == (500, "/problems/internal")
    assert "secret" not in body["body"].decode()
    assert "a secret of the service" in caplog.text
    assert dict(start["headers"])[b"x-request-id"].decode() == problem["request_id"]


def test_client_that_leaves_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    headers = [*scope()["headers"], (b"content-length", b"5")]
    assert run(gate_before(read_all), scope(headers=headers), gone) == []
    assert "request.failed" not in caplog.text


def test_web_sockets_are_closed() -> None:
    sent = run(gate_before(fail), {"type": "websocket", "path": "/"}, never)
    assert sent == [{"type": "websocket.close", "code": 1000}]


def test_answers_cannot_be_framed_or_sniffed(shared: TestClient) -> None:
    headers = shared.get("/healthz").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert not [name for name in headers if name.startswith("access-control")]
