"""Keys by what they open: scopes, ends, limits, and that their text is told once."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from httpx2 import Response
from pydantic import SecretStr
from sqlalchemy import func, select, update
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.factories import ToyWorker
from tests.service.api.probes import SMALL, assert_problem

from dropt.api.app import create_app
from dropt.api.gate import Gate
from dropt.api.guard import Guard
from dropt.cli.logs import log_to
from dropt.errors import KeyNeeded
from dropt.jobs import keys
from dropt.settings import Settings
from dropt.spec.keys import KEY, SCOPES, new_key
from dropt.spec.keys import Scope as KeyScope
from dropt.storage import tables
from dropt.tuning.service import Service

HOUR = timedelta(hours=1)
OWN = "a-key-from-a-secret-store"
HTML = {"Accept": "text/html"}


def make(service: Service, *scopes: KeyScope, project: str = "default") -> str:
    chosen = scopes or ("admin",)
    return keys.make(service.database, project=project, name="test", scopes=chosen).key


def ask(
    http: TestClient, key: str | None, method: str = "GET", path: str = "/v1/jobs", **more: Any
) -> Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return http.request(method, path, headers=headers, **more)


@pytest.fixture(params=["sqlite_database_url", "postgres_database_url"])
def on_either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestClient]:
    """The service over SQLite and over PostgreSQL, without a key."""
    url = request.getfixturevalue(request.param)
    app = create_app(Settings(state=tmp_path / "own", database_url=url, limit_free_disk_bytes=0))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


class Fault(Exception):
    """An error whose text holds a key."""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """The file into which the service logs, as `dropt run` has it."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    log_to(tmp_path / "service.log", "debug")
    yield tmp_path / "service.log"
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)


def service_of(http: TestClient) -> Service:
    assert isinstance(http.app, FastAPI)
    service: Service = http.app.state.service
    return service


def test_key_is_made_used_listed_and_revoked_at_once(on_either: TestClient) -> None:
    http = on_either
    made = http.post("/v1/keys", json={"name": "ci", "scopes": ["admin"]})  # the first: keyless
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    key = made.json()["key"]
    assert KEY.fullmatch(key)
    assert_problem(http.get("/v1/keys"), 401, "unauthorized")  # from now on keys are asked for

    second = ask(http, key, "POST", "/v1/keys", json={"name": "reader", "scopes": ["jobs:read"]})
    reader = second.json()["key"]
    listed = ask(http, key, path="/v1/keys")
    assert [each["name"] for each in listed.json()["items"]] == ["reader", "ci"]
    assert listed.json()["items"][1]["last_used_at"] is not None
    assert not {key, reader} & set(listed.text.split('"'))
    assert ask(http, reader).status_code == 200

    gone = ask(http, key, "DELETE", f"/v1/keys/{second.json()['id']}")
    assert gone.status_code == 204
    problem = assert_problem(ask(http, reader), 401, "unauthorized")
    assert "is revoked; make a new one" in problem["detail"]
    again = ask(http, key, "DELETE", f"/v1/keys/{second.json()['id']}")
    assert_problem(again, 404, "not-found")
    assert [each["name"] for each in ask(http, key, path="/v1/keys").json()["items"]] == ["ci"]


def test_service_that_had_keys_does_not_open_again(http: TestClient) -> None:
    made = http.post("/v1/keys", json={"name": "only", "scopes": ["admin"]}).json()
    assert ask(http, made["key"], "DELETE", f"/v1/keys/{made['id']}").status_code == 204
    assert_problem(http.get("/v1/jobs"), 401, "unauthorized")
    assert http.get("/healthz").status_code == 200


def test_expired_key_is_refused_and_says_so(on_either: TestClient) -> None:
    service = service_of(on_either)
    end = datetime.now(UTC) + HOUR
    key = keys.make(
        service.database, project="default", name="short", scopes=["jobs:read"], expires_at=end
    ).key
    assert ask(on_either, key).status_code == 200
    with service.database.writing() as session:
        past = datetime.now(UTC) - HOUR
        session.execute(update(tables.api_key).values(expires_at=past))
    assert "is expired" in assert_problem(ask(on_either, key), 401, "unauthorized")["detail"]


def test_key_that_would_have_expired_is_not_made(http: TestClient) -> None:
    past = (datetime.now(UTC) - HOUR).isoformat()
    problem = assert_problem(
        http.post("/v1/keys", json={"name": "x", "expires_at": past}), 422, "validation"
    )
    assert problem["errors"][0]["pointer"] == "/expires_at"


def test_pages_of_keys_have_every_key_once(http: TestClient, service: Service) -> None:
    for _ in range(5):
        key = make(service)
    token: str | None = ""
    seen: list[str] = []
    while token is not None:
        query = {"page_size": "2"} | ({"page_token": token} if token else {})
        page = ask(http, key, path="/v1/keys", params=query).json()
        seen += [each["id"] for each in page["items"]]
        token = page["next_page_token"]
    assert len(seen) == len(set(seen)) == 5


def test_the_database_has_the_digest_of_a_key_alone(http: TestClient, service: Service) -> None:
    key = make(service)
    with service.database.reading() as session:
        stored = repr(session.execute(select(tables.api_key)).one())
    assert key not in stored
    assert key[15:] not in stored


@pytest.mark.parametrize(
    "sent",
    ["Basic {key}", "{key}", "Bearer", "Bearer {key} ", "Bearer {key}x", "Bearer {other}",
     "Bearer {swapped}", "Bearer \xfc", "Bearer {key}, Bearer {key}", "Token {key}"],
)  # fmt: skip
def test_what_is_not_the_key_is_refused(http: TestClient, service: Service, sent: str) -> None:
    key = make(service)
    other = new_key()
    swapped = key[:15] + other[15:]  # the handle of the one, the secret of the other
    header = sent.format(key=key, other=other, swapped=swapped).encode("latin-1")
    response = http.get("/v1/jobs", headers=[(b"Authorization", header)])
    assert_problem(response, 401, "unauthorized")
    assert key[15:] not in response.text
    assert other[15:] not in response.text


def test_the_name_of_the_scheme_has_no_case(http: TestClient, service: Service) -> None:
    headers = {"Authorization": f"bearer {make(service)}"}
    assert http.get("/v1/jobs", headers=headers).status_code == 200


def test_two_keys_in_one_request_are_refused(http: TestClient, service: Service) -> None:
    sent = [(b"Authorization", f"Bearer {make(service)}".encode())] * 2
    assert_problem(http.get("/v1/jobs", headers=sent), 401, "unauthorized")


ASKED: dict[str, tuple[str, str, int]] = {  # one request for each scope that a key can lack
    "jobs:read": ("GET", "/v1/jobs", 200),
    "jobs:write": ("DELETE", "/v1/jobs/job_1", 404),
    "worker": ("DELETE", "/v1/leases/lea_1", 404),
    "admin": ("GET", "/v1/keys", 200),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_scope_opens_its_own_requests_alone(
    http: TestClient, service: Service, scope: KeyScope
) -> None:
    key = make(service, scope)
    for needed, (method, path, status) in ASKED.items():
        response = ask(http, key, method, path)
        if scope in (needed, "admin"):
            assert response.status_code in (status, 200, 405), (needed, response.text)
        else:
            problem = assert_problem(response, 403, "forbidden")
            assert problem["needs"] == [needed]
            assert f"dropt keys new --scope {needed}" in problem["detail"]
    assert ask(http, key, path="/version").status_code == 200


def test_worker_key_reads_no_jobs_no_lists_and_no_keys(http: TestClient, service: Service) -> None:
    key = make(service, "worker")
    for path in ("/v1/jobs", "/v1/workers", "/v1/datasets", "/v1/models", "/v1/best", "/v1/keys",
                 "/dashboard/", "/api/studies"):  # fmt: skip
        assert_problem(ask(http, key, path=path), 403, "forbidden")


def test_bad_keys_of_one_address_are_slowed_down_and_good_ones_are_not(
    settings: Settings,
) -> None:
    app = create_app(settings.model_copy(update={"limit_bad_keys_per_minute": 2.0}))
    with TestClient(app, base_url="http://localhost") as http:
        key = make(app.state.service)
        answers = [ask(http, new_key()) for _ in range(4)]
        assert [answer.status_code for answer in answers[:3]] == [401, 401, 429]
        problem = assert_problem(answers[3], 429, "rate-limited")
        assert 1 <= int(answers[3].headers["Retry-After"]) <= 30
        assert problem["retry_after_seconds"] == int(answers[3].headers["Retry-After"])
        assert ask(http, key).status_code == 200


def test_too_many_requests_of_one_key_are_429_and_another_key_goes_on(
    settings: Settings,
) -> None:
    app = create_app(settings.model_copy(update={"limit_requests_per_second": 0.001}))
    with TestClient(app, base_url="http://localhost") as http:
        first, second = make(app.state.service), make(app.state.service)
        assert ask(http, first).status_code == 200
        refused = ask(http, first)
        assert_problem(refused, 429, "rate-limited")
        assert int(refused.headers["Retry-After"]) > 0
        assert ask(http, second).status_code == 200


def test_keys_of_the_settings_are_asked_for_and_open_what_they_should(settings: Settings) -> None:
    own = {"admin_key": SecretStr(OWN), "worker_key": SecretStr(OWN + "2")}
    app = create_app(settings.model_copy(update=own))
    with TestClient(app, base_url="http://service.example") as http:
        assert_problem(http.get("/v1/jobs"), 401, "unauthorized")
        assert ask(http, OWN, path="/v1/keys").status_code == 200
        assert_problem(ask(http, OWN + "2"), 403, "forbidden")
        assert_problem(ask(http, OWN + "2", "DELETE", "/v1/leases/x"), 404, "not-found")
        assert_problem(ask(http, OWN + "3"), 401, "unauthorized")


def test_service_beyond_loopback_needs_a_key_first(settings: Settings) -> None:
    beyond = settings.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(KeyNeeded, match=r"dropt keys new --state .*DROPT_NO_AUTH=1"):
        create_app(beyond)
    with TestClient(create_app(settings)) as http:
        key = make(service_of(http))
    with TestClient(create_app(beyond), base_url="http://service.example") as http:
        assert_problem(http.get("/v1/jobs"), 401, "unauthorized")
        assert ask(http, key).status_code == 200
    create_app(settings.model_copy(update={"host": "::", "no_auth": True}))  # starts


def test_keys_are_in_no_log_and_no_problem(
    http: TestClient, service: Service, worker: ToyWorker, log: Path
) -> None:
    key = make(service)
    secret = key[15:]
    for response in (
        ask(http, key, path=f"/v1/{key}"),
        ask(http, key, path=f"/v1/jobs?{key}=1"),
        ask(http, key, "POST", json=SMALL | {key: 1}),
        ask(http, key, "POST", json=SMALL | {"model": key}),
        ask(http, key, "POST", content=f"key={key}", params={}),
        ask(http, key + "x"),
        ask(http, None, path=f"/v1/jobs/{key}"),
    ):
        assert response.status_code >= 400
        assert secret not in response.text
    logging.getLogger("dropt").error(
        "x.failed", extra={"why": {"keys": [key]}}, exc_info=Fault(key)
    )
    told = log.read_text("utf-8")
    assert told.count("request.answered") == 7
    assert told.count(f"{key[:15]}***") >= 4
    assert secret not in told


def test_login_opens_a_session_that_may_only_read(on_either: TestClient) -> None:
    http, service = on_either, service_of(on_either)
    key = make(service)
    form = {"key": key, "next": "/dashboard/studies/1"}
    answer = http.post("/login", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/dashboard/studies/1")
    cookie = answer.headers["Set-Cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie  # plain http
    assert 8 * 3600 - 60 <= int(cookie.partition("max-age=")[2].partition(";")[0]) <= 8 * 3600
    assert key[15:] not in cookie

    assert http.get("/v1/jobs").status_code == 200
    assert_problem(http.get("/v1/keys"), 403, "forbidden")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert_problem(http.request(method, "/v1/jobs", json=SMALL), 401, "unauthorized")
    assert_problem(http.delete("/api/studies/1"), 401, "unauthorized")

    assert http.post("/logout", follow_redirects=False).status_code == 303
    http.cookies.set("dropt_session", answer.cookies["dropt_session"])
    assert_problem(http.get("/v1/jobs"), 401, "unauthorized")


def test_session_ends_with_its_key_and_is_no_key(http: TestClient, service: Service) -> None:
    made = keys.make(service.database, project="default", name="x", scopes=["jobs:read"])
    http.post("/login", data={"key": made.key}, follow_redirects=False)
    session = http.cookies["dropt_session"]
    assert http.get("/v1/jobs").status_code == 200
    assert http.post("/login", data={"key": session}).status_code == 401
    listed = keys.list_keys(service.database, project="default", limit=9)
    assert [each.id for each in listed] == [made.id]
    keys.revoke(service.database, made.id, project="default")
    assert_problem(http.get("/v1/jobs"), 401, "unauthorized")


def test_sessions_that_have_ended_are_removed(http: TestClient, service: Service) -> None:
    key = make(service, "jobs:read")
    for _ in range(3):
        http.post("/login", data={"key": key}, follow_redirects=False)
        http.post("/logout", follow_redirects=False)
    with service.database.reading() as session:
        n_rows = session.scalars(select(func.count()).select_from(tables.api_key)).one()
    assert n_rows == 2  # the key, and the last session


def test_browser_without_a_session_is_led_to_the_login_page_and_back(
    http: TestClient, service: Service
) -> None:
    make(service)
    led = http.get("/dashboard/", headers=HTML, follow_redirects=False)
    assert (led.status_code, led.headers["Location"]) == (303, "/login?next=/dashboard/")
    page = http.get(led.headers["Location"])
    assert 'value="/dashboard/"' in page.text
    assert "form-action 'self'" in page.headers["Content-Security-Policy"]
    assert_problem(http.post("/v1/jobs", json=SMALL, headers=HTML), 401, "unauthorized")


@pytest.mark.parametrize(
    "next", ["//evil.example", "https://evil.example", "/\\evil.example", "/x\r\nSet-Cookie: a=b"]
)
def test_login_leads_to_no_other_site(http: TestClient, service: Service, next: str) -> None:
    form = {"key": make(service), "next": next}
    answer = http.post("/login", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/dashboard/")


def test_login_refuses_bad_keys_and_forms_of_other_sites(
    http: TestClient, service: Service
) -> None:
    key, worker = make(service), make(service, "worker")
    refused = http.post("/login", data={"key": new_key(), "next": '"><script>'})
    assert refused.status_code == 401
    assert "The key is not known here" in refused.text
    assert "<script>" not in refused.text
    assert http.post("/login", data={"key": worker}).status_code == 403
    foreign = http.post("/login", data={"key": key}, headers={"Origin": "https://evil.example"})
    assert_problem(foreign, 403, "host-not-allowed")
    own = {"Origin": "http://localhost"}
    assert http.post("/login", data={"key": key}, headers=own, follow_redirects=False).is_redirect
    assert http.post("/login", content=b"key=" + b"x" * 5_000).status_code == 413


def stream(service: Service, settings: Settings, app: ASGIApp, key: str) -> list[Message]:
    """What the gate lets out of an app, when each message is preceded by a look at the key."""
    guard = Guard(settings, service.database, recheck_s=0.0)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/v1/jobs", "headers": headers}
    anyio.run(Gate(app, settings, guard), scope, receive, send)
    return sent


@pytest.mark.parametrize("n_before", [0, 1, 2])
def test_answer_under_way_ends_with_its_key(
    http: TestClient, service: Service, settings: Settings, n_before: int
) -> None:
    made = keys.make(service.database, project="default", name="x", scopes=["jobs:read"])
    parts: list[Message] = [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"PART-1", "more_body": True},
        {"type": "http.response.body", "body": b"PART-2", "more_body": True},
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for number, part in enumerate(parts):
            if number == n_before:
                keys.revoke(service.database, made.id, project="default")
            await send(part)

    sent = stream(service, settings, app, made.key)
    told = b"".join(message.get("body", b"") for message in sent)
    assert b"PART-2" not in told
    assert not sent[-1].get("more_body", False)
    assert sent[0]["status"] == (401 if n_before == 0 else 200)
    assert (b"PART-1" in told) == (n_before == 2)
