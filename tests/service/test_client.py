"""The client against the real application, in memory and over a socket."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import uvicorn
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import BODY, SMALL

from dropt.api.app import create_app
from dropt.client import Client
from dropt.client.problems import problem_error
from dropt.errors import (
    DigestMismatch,
    DroptError,
    Internal,
    InvalidRequest,
    JobAlreadyFinished,
    LeaseLost,
    NameTaken,
    NotFound,
    NotReady,
    SequenceMismatch,
    ServiceUnreachable,
)
from dropt.settings import Settings
from dropt.spec.job import JobCreate
from dropt.spec.preview import LookPending
from dropt.spec.protocol import Heartbeat, InspectionReport, LeaseRequest, Measurement, Report
from dropt.tuning.service import Service


class Place:
    """A service, and a client of it."""

    def __init__(self, service: Service, client: Client) -> None:
        self.service, self.client = service, client


@pytest.fixture(params=["app", "wire"])
def place(
    request: pytest.FixtureRequest, migrated_sqlite: Path, tmp_path: Path
) -> Iterator[Place]:
    """The same application without and with a network in between."""
    shutil.copytree(migrated_sqlite, tmp_path / "state")
    app = create_app(Settings(state=tmp_path / "state", limit_free_disk_bytes=0))
    if request.param == "app":
        with TestClient(app, base_url="http://localhost") as http:
            transport = http._transport  # the network of the test client
            with Client("http://localhost", transport=transport) as client:
                yield Place(app.state.service, client)
        return
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with Client(f"127.0.0.1:{port}") as client:
        yield Place(app.state.service, client)
    server.should_exit = True
    thread.join()


@pytest.mark.slow
def test_user_gets_an_answer(place: Place) -> None:
    worker, client = factories.ToyWorker(place.service), place.client
    client.wait_until_ready(lambda: None)
    job = client.create_job(SMALL, idempotency_key="k")
    assert client.create_job(SMALL, idempotency_key="k") == job
    factories.run_until_done(place.service, worker)

    done = client.get_job(job.id, wait_s=5)
    assert (done.state, done.spec) == ("succeeded", job.spec)
    assert client.get_verdict(job.id).verdict == done.verdict
    assert len(client.get_best(job.id, top=1).top) >= 2
    assert [arm.arm for arm in client.list_arms(job.id)] == ["without", "with", "textbook"]
    assert len(list(client.iterate_trials(job.id, arm="with", phase="search"))) == 4
    events = list(client.iterate_events(job.id))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert list(client.iterate_events(job.id, after=len(events))) == []
    assert [each.id for each in client.list_jobs(state=["succeeded"], model="mlp").items] == [
        job.id
    ]
    assert [model.name for model in client.list_models()] == ["mlp"]
    assert client.inspect_model("mlp", "digits") == factories.inspection()
    assert client.preview_job(SMALL).state == "done"
    assert client.get_placement(job.id, arm="with").source["job"] == job.id
    assert "arm 'without'" in client.get_snippet(job.id, arm="without")
    assert isinstance(client.inspect_model("mlp", "houses"), LookPending)
    assert [worker.name for worker in client.list_workers()] == ["w"]
    with pytest.raises(JobAlreadyFinished):
        client.cancel_job(job.id)


def test_worker_speaks_the_protocol(place: Place) -> None:
    client = place.client
    worker = client.register_worker(factories.registration())
    assert client.heartbeat(worker.id, Heartbeat()).leases == ()
    request = LeaseRequest(worker=worker.id, slots=4)
    assert client.request_lease(request, idempotency_key="1") is None
    client.create_job(JobCreate.model_validate(BODY))
    lease = client.request_lease(request, idempotency_key="2", wait_s=60)
    assert lease is not None
    assert lease.kind == "inspect"
    report = Report(
        worker=worker.id, sequence=1, done=True,
        inspection=InspectionReport(result=factories.inspection()),
    )  # fmt: skip
    assert client.send_report(lease.id, report).sequence == 1
    lease = client.request_lease(request, idempotency_key="3", wait_s=60)
    assert lease is not None
    trial = lease.trials[0]
    old = Measurement(trial=trial.id, attempt=trial.attempt + 1, epoch=1)
    with pytest.raises(LeaseLost) as lost:
        client.send_report(lease.id, Report(worker=worker.id, sequence=1, measurements=(old,)))
    assert lost.value.lost == (trial.id,)
    with pytest.raises(SequenceMismatch) as mismatch:
        client.send_report(lease.id, Report(worker=worker.id, sequence=9))
    assert mismatch.value.expected == 1
    client.give_back(lease.id)
    client.give_back(lease.id)
    client.retire_worker(worker.id)
    with pytest.raises(NotFound):
        client.heartbeat(worker.id, Heartbeat())


def test_files_go_and_come_by_digest(place: Place, tmp_path: Path) -> None:
    client, content = place.client, bytes(range(256)) * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    assert not client.has_artifact(sha256)
    assert client.put_artifact(content) == sha256 == client.put_artifact(content)
    client.fetch(f"/v1/artifacts/{sha256}", sha256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    with pytest.raises(DigestMismatch):
        client.fetch(f"/v1/artifacts/{sha256}", "0" * 64, tmp_path / "other")
    with pytest.raises(NotFound):
        client.fetch(f"/v1/artifacts/{'0' * 64}", "0" * 64, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]


def test_table_is_uploaded(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,y\n" + "".join(f"{i},{i % 3}\n" for i in range(30)))
    dataset = place.client.add_dataset(path, name="mine", target="y")
    assert (dataset.name, dataset.classes) == ("mine", 3)
    assert place.client.list_datasets() == [dataset]
    with pytest.raises(NameTaken):
        place.client.add_dataset(path, name="mine", target="y", task="regression")
    with pytest.raises(InvalidRequest) as caught:
        place.client.add_dataset(path, name="mine", target="z")
    assert caught.value.errors[0].allowed == ("a", "y")


def test_refusal_comes_back_with_its_fields(place: Place) -> None:
    factories.ToyWorker(place.service)
    with pytest.raises(InvalidRequest) as caught:
        place.client.create_job({"model": "mlp", "datset": "digits"})
    fields = {field.pointer: field for field in caught.value.errors}
    assert fields["/datset"].message == "Unknown field. Did you mean 'dataset'?"
    assert fields["/datset"].received == "datset"
    assert "dataset" in fields["/datset"].allowed
    assert caught.value.members["request_id"]


def test_names_cannot_leave_their_place_in_the_path(place: Place) -> None:
    for name in ("../../version", "a/b", "a?b", "a#b", "%2e%2e", "ü ", ".."):
        with pytest.raises(NotFound):
            place.client.get_job(name)


def answered(response: httpx2.Response) -> Client:
    return Client("http://x", transport=httpx2.MockTransport(lambda request: response))


def test_answer_of_another_form_names_both_sides() -> None:
    with pytest.raises(Internal, match="one version"):
        answered(httpx2.Response(200, json={"id": 5})).get_job("job_1")


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx2.Response(502, html="<h1>Bad gateway</h1>"), Internal),
        (httpx2.Response(404, text="nothing here"), NotFound),
        (httpx2.Response(418, json=["tea"]), InvalidRequest),
        (httpx2.Response(503, json={"type": "/problems/not-ready", "detail": "wait"}), NotReady),
        (httpx2.Response(302, headers={"Location": "http://evil"}), InvalidRequest),
    ],
)
def test_answers_of_strangers_are_errors_too(
    response: httpx2.Response, kind: type[DroptError]
) -> None:
    with pytest.raises(DroptError) as caught:
        answered(response).version()
    assert type(caught.value) is kind


def test_new_code_of_a_newer_service_keeps_its_words() -> None:
    problem = {"type": "/problems/too-hot", "detail": "Cool down", "status": 429, "degrees": 99}
    error = problem_error(429, json.dumps(problem).encode())
    assert (type(error), error.detail) == (InvalidRequest, "Cool down")
    assert error.members == {"degrees": 99, "status": 429}


def test_no_service_is_unreachable() -> None:
    with Client("127.0.0.1:9") as client, pytest.raises(ServiceUnreachable, match="answers at"):
        client.version()


@pytest.mark.parametrize("url", ["http://", "http://[", "ftp://x", "http://nope.invalid"])
def test_address_that_leads_nowhere_is_unreachable(url: str) -> None:
    with pytest.raises(ServiceUnreachable), Client(url) as client:
        client.version()


def test_waiting_for_a_service_ends_when_the_check_says_so() -> None:
    def check() -> None:
        raise Internal("it died")

    with Client("127.0.0.1:9") as client, pytest.raises(Internal, match="it died"):
        client.wait_until_ready(check)


def test_key_is_sent() -> None:
    seen: list[str] = []

    def note(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers["authorization"])
        return httpx2.Response(200, json={})

    Client("http://x", key="secret", transport=httpx2.MockTransport(note)).version()
    assert seen == ["Bearer secret"]


def test_client_needs_no_database_and_no_server() -> None:
    program = (
        "import dropt.client, sys;"
        "print([m for m in ('sqlalchemy', 'fastapi', 'starlette', 'optuna', 'uvicorn', 'torch',"
        " 'numpy', 'alembic') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
