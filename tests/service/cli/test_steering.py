"""Commands that steer a job, over the real application."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import BODY, SMALL

from dropt.api.app import create_app
from dropt.cli import steering
from dropt.cli.problems import ExitCode
from dropt.client import Client
from dropt.errors import NotFound, StaleRevision, StillRunning
from dropt.settings import Settings
from dropt.spec.changes import JobChange
from dropt.storage.engine import sqlite_url
from dropt.tuning.service import Service


class Place:
    """A service with a worker, and a client of it."""

    def __init__(self, service: Service, client: Client) -> None:
        self.client, self.service = client, service
        self.worker = factories.ToyWorker(service)


@pytest.fixture
def place(sqlite_database_url: str, tmp_path: Path) -> Iterator[Place]:
    assert sqlite_database_url == sqlite_url(tmp_path / "state")
    app = create_app(Settings(state=tmp_path / "state", limit_free_disk_bytes=0))
    with (
        TestClient(app, base_url="http://localhost") as http,
        Client("http://localhost", transport=http._transport) as client,
    ):
        yield Place(app.state.service, client)


def test_job_is_paused_extended_cloned_and_deleted(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = place.client
    job = client.create_job(BODY)
    steering.say_state(client.pause_job(job.id), as_json=False)
    assert capsys.readouterr().out == f"{job.id} is paused.\n"
    extended = client.extend_job(job.id, trials=6, idempotency_key="k")
    assert client.extend_job(job.id, trials=6, idempotency_key="k") == extended
    assert extended.spec.budget.trials == 70
    steering.say_state(client.resume_job(job.id), as_json=True)
    assert json.loads(capsys.readouterr().out)["done"] is False

    (tmp_path / "changes.json").write_text('{"training": {"epochs": 4}, "name": "again"}')
    steering.clone_job(
        client, job.id, tmp_path / "changes.json", warm_start=False, as_json=False
    )  # fmt: skip
    clone = client.get_job(capsys.readouterr().out.strip())
    assert (clone.cloned_from, clone.spec.training.epochs) == (job.id, 4)

    changed = client.change_job(clone.id, JobChange(priority=4))
    assert changed.priority == 4
    with pytest.raises(StaleRevision):
        client.change_job(clone.id, JobChange(priority=5), revision=changed.revision - 1)
    client.pause_job(clone.id)
    with pytest.raises(StillRunning):
        steering.delete_job(client, clone.id, force=False)
    steering.delete_job(client, clone.id, force=True)
    with pytest.raises(NotFound):
        client.get_job(clone.id)


@pytest.mark.slow
def test_followed_job_is_told_to_its_end(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    job = place.client.create_job(SMALL)
    work = threading.Thread(
        target=factories.run_in_turns, args=(place.service, place.worker, job.id)
    )
    work.start()
    assert steering.follow_events(place.client, job.id, as_json=True) == ExitCode.OK
    work.join()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["type"] == "job.finished"


def test_stopped_job_keeps_what_it_found(place: Place) -> None:
    worker, lease = factories.search_lease(place.service, worker=place.worker)
    assert place.client.stop_job(lease.job, evidence=False).state == "stopping"
    worker.train(lease)
    job = place.client.get_job(lease.job, wait_s=10)
    assert (job.ended_by, job.verdict) == ("stopped", "not_tested")
