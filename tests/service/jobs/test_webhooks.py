"""Webhooks that a listener on this machine really receives."""

import base64
import hashlib
import hmac
import ipaddress
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any, get_args

import pytest
from sqlalchemy import update
from tests import factories
from tests.factories import PROJECT, ToyWorker, job_row, make_service, run_until_done, submit
from tests.service.conftest import Done

from dropt.jobs import listeners, webhooks
from dropt.jobs.listeners import NoAddress
from dropt.jobs.upkeep import Upkeep
from dropt.spec.webhooks import EventType, WebhookRules
from dropt.storage import clock, events
from dropt.storage import webhooks as stored
from dropt.storage.tables import webhook
from dropt.storage.webhooks import WebhookRow
from dropt.tuning.service import Service

SECRET = "whsec_" + base64.b64encode(b"sixteen bytes or more").decode()
HERE = WebhookRules(frozenset({"localhost"}), private=True)


@dataclass
class Heard:
    """One request, as it came."""

    headers: dict[str, str]
    content: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.content)
        return event


@dataclass
class Listener:
    """A web server; it answers with the statuses given, then with 204."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    n_connections: int = 0


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()

    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            found.n_connections += 1
            super().setup()

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.heard.append(Heard(headers, content))
            status = found.answers.pop(0) if found.answers else 204
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found.url = f"http://localhost:{server.server_address[1]}/hook?of=dropt"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def submit_heard(service: Service, listener: Listener, *types: str) -> str:
    """A job that tells a listener of these events."""
    service.webhooks = HERE
    notify = {"url": listener.url, "secret": SECRET, "events": list(types or ("job.finished",))}
    return submit(service, notify=notify)


def make_due(service: Service) -> None:
    """Let the time until the next attempt pass."""
    with service.database.writing() as session:
        session.execute(update(webhook).values(due_at=0.0))


def outbox(service: Service, job_id: str) -> list[WebhookRow]:
    with service.database.reading() as session:
        return stored.list_of(session, job_id, project=PROJECT)


def deliver(service: Service) -> None:
    while webhooks.deliver_due(service):
        pass


def test_listener_hears_events_in_order_and_can_check_them(
    service_on_either: Service, listener: Listener
) -> None:
    service = service_on_either
    worker = ToyWorker(service)
    job_id = submit_heard(service, listener, "job.state", "job.phase", "job.finished")
    run_until_done(service, worker)
    deliver(service)
    with service.database.reading() as session:
        wanted = events.list_after(
            session, job_id, project=PROJECT, limit=10_000,
            types=["job.state", "job.phase", "job.finished"],
        )  # fmt: skip
        now = clock.epoch_now(session)
    assert [heard.event for heard in listener.heard] == [
        one.model_dump(mode="json") for one in wanted
    ]
    assert listener.heard[-1].event["type"] == "job.finished"
    assert len({heard.headers["webhook-id"] for heard in listener.heard}) == len(wanted)
    for heard in listener.heard:
        timestamp = heard.headers["webhook-timestamp"]
        assert abs(int(timestamp) - now) < 60
        signed = f"{heard.headers['webhook-id']}.{timestamp}.".encode() + heard.content
        digest = hmac.new(b"sixteen bytes or more", signed, hashlib.sha256).digest()
        wanted_signature = "v1," + base64.b64encode(digest).decode()
        assert heard.headers["webhook-signature"] == wanted_signature
        assert heard.headers["host"] == listener.url.split("/")[2]
        assert heard.headers["content-type"] == "application/json"
    assert {row.state for row in outbox(service, job_id)} == {"delivered"}


def test_signature_is_that_of_the_published_example() -> None:
    """Of the reference implementation of Standard Webhooks."""
    secret, id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    found = webhooks.signature(secret, id, 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_listener_that_refuses_is_asked_again_later(service: Service, listener: Listener) -> None:
    worker = ToyWorker(service)
    job_id = submit_heard(service, listener)
    run_until_done(service, worker)
    listener.answers = [503, 302, 200]
    deliver(service)
    assert len(listener.heard) == 1, "the second attempt is not due"
    (row,) = outbox(service, job_id)
    assert (row.state, row.attempts, row.problem) == ("waiting", 1, "the listener answered 503")
    make_due(service)
    deliver(service)
    assert len(listener.heard) == 2, "a redirect is not followed"
    make_due(service)
    deliver(service)
    (row,) = outbox(service, job_id)
    assert (row.state, row.attempts, row.problem) == ("delivered", 3, None)
    assert len({heard.headers["webhook-id"] for heard in listener.heard}) == 1


def test_pauses_grow_to_an_hour() -> None:
    assert [webhooks.retry_in_s(n) for n in (1, 2, 3, 4, 5, 6, 7, 99)] == [
        5, 20, 80, 320, 1280, 3600, 3600, 3600,
    ]  # fmt: skip


def test_listener_that_stays_away_is_given_up_after_a_day(
    service: Service, listener: Listener
) -> None:
    ToyWorker(service)
    job_id = submit_heard(service, listener, "job.state")
    listener.answers = [500]
    with service.database.writing() as session:
        session.execute(update(webhook).values(expires_at=clock.epoch_now(session) + 4.0))
    deliver(service)
    assert [row.state for row in outbox(service, job_id)] == ["failed"]
    make_due(service)
    deliver(service)
    assert len(listener.heard) == 1


def test_restart_loses_none(service: Service, listener: Listener, tmp_path: Path) -> None:
    """A service that dies in mid-delivery has taken it out for a minute, and no more."""
    worker = ToyWorker(service)
    job_id = submit_heard(service, listener)
    run_until_done(service, worker)
    with service.database.writing() as session:
        assert len(stored.claim_due(session, 9)) == 1  # and the process is killed
    reborn = make_service(service.database, tmp_path)
    reborn.webhooks = HERE
    deliver(reborn)
    assert listener.heard == [], "another process may be at it"
    make_due(reborn)
    deliver(reborn)
    assert [heard.event["job"] for heard in listener.heard] == [job_id]


def test_event_that_is_rolled_back_is_not_told(service: Service, listener: Listener) -> None:
    ToyWorker(service)
    job_id = submit_heard(service, listener, "warning")

    def fail() -> None:
        with service.database.writing() as session:
            events.record(session, job_id, "warning", project=PROJECT)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert outbox(service, job_id) == []


def test_private_address_gets_no_connection(
    service: Service, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a name is said to mean, and however an address is written."""
    ToyWorker(service)
    job_id = submit_heard(service, listener, "job.state")
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254"):
        info = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))]
        monkeypatch.setattr(socket, "getaddrinfo", partial(_answer, info))
        service.webhooks = WebhookRules(HERE.hosts)
        make_due(service)
        deliver(service)
        (row,) = outbox(service, job_id)
        assert row.problem is not None
        assert "private address" in row.problem
    assert listener.n_connections == 0


def _answer(info: object, *args: object, **kwargs: object) -> object:
    return info


def test_every_event_that_is_written_can_be_asked_for(done: Done, raced: Done) -> None:
    for job in (done, raced):
        with job.service.database.reading() as session:
            told = events.list_after(session, job.job.id, project=PROJECT, limit=10_000)
        assert {event.type for event in told} <= set(get_args(EventType))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("10.0.0.1", False), ("100.64.0.1", False),
        ("192.168.1.1", False), ("169.254.0.1", False), ("224.0.0.1", False), ("::", False),
        ("fd00::1", False), ("fe80::1", False), ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False), ("64:ff9b::7f00:1", False), ("64:ff9b::808:808", True),
    ],
)  # fmt: skip
def test_address_is_public_or_not(address: str, public: bool) -> None:
    assert listeners.is_public(ipaddress.ip_address(address)) is public


def test_request_goes_to_the_address_that_was_judged() -> None:
    rules = WebhookRules(frozenset({"127.0.0.1"}), private=True)
    target = listeners.resolve(rules, "http://127.0.0.1:8080/a?b=c")
    assert target.url == "http://127.0.0.1:8080/a?b=c"
    with pytest.raises(NoAddress, match="not among"):
        listeners.resolve(HERE, "http://127.0.0.1/")


def test_thread_delivers_by_itself_and_stops(service: Service, listener: Listener) -> None:
    worker = ToyWorker(service)
    job_id = submit_heard(service, listener)
    run_until_done(service, worker)
    upkeep = Upkeep(service, tick_s=0.01)
    upkeep.start()
    deadline = monotonic() + factories.PATIENCE_S
    while outbox(service, job_id)[0].state != "delivered":
        assert monotonic() < deadline
    upkeep.stop()
    assert job_row(service, job_id).notify_secret == SECRET
