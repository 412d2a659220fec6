"""The stream of events, over a real socket that is cut again and again."""

import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import SMALL, assert_problem

from dropt.client import Client
from dropt.client.events import StreamedEvent, read_stream
from dropt.storage import events
from dropt.tuning.service import Service

N_CUTS = 100


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    """The application behind a port of this machine."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def read(text: str) -> list[StreamedEvent]:
    return list(read_stream(text.split("\n")))


def told(service: Service, job_id: str) -> list[int]:
    with service.database.reading() as session:
        found = events.list_after(session, job_id, project=factories.PROJECT, limit=10_000)
    return [event.sequence for event in found]


def test_stream_of_a_finished_job_replays_and_ends(shared: TestClient, path: str) -> None:
    listed = shared.get(f"{path}/events", params={"page_size": 500}).json()["items"]
    answer = shared.get(f"{path}/events/stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    streamed = read(answer.text)
    assert [json.loads(event.data) for event in streamed] == listed
    assert [(event.id, event.type) for event in streamed] == [
        (f"{one['sequence']}", one["type"]) for one in listed
    ]
    assert streamed[-1].type == "job.finished"
    assert {"job.state", "trial.completed", "best.updated"} <= {event.type for event in streamed}


@pytest.mark.parametrize("how", ["header", "query", "both", "not ours"])
def test_stream_begins_after_the_last_event_that_was_seen(
    shared: TestClient, path: str, how: str
) -> None:
    last = shared.get(f"{path}/events", params={"page_size": 500}).json()["items"][-1]["sequence"]
    header = {"header": f"{last - 3}", "both": f"{last - 3}", "not ours": "x-1"}.get(how)
    query = {"query": last - 3, "both": 2}.get(how)
    answer = shared.get(
        f"{path}/events/stream", params={} if query is None else {"after": query},
        headers={} if header is None else {"Last-Event-ID": header},
    )  # fmt: skip
    first = 1 if how == "not ours" else last - 2
    assert [int(event.id) for event in read(answer.text)] == list(range(first, last + 1))


def test_stream_of_an_unknown_job_is_a_problem(shared: TestClient) -> None:
    assert_problem(shared.get("/v1/jobs/job_0/events/stream"), 404, "not-found")


@pytest.mark.slow
def test_cut_stream_loses_and_doubles_nothing(address: str, service: Service) -> None:
    """100 cuts after random numbers of bytes: while the job runs, and of readers after it."""
    worker = factories.ToyWorker(service)
    job_id = httpx2.post(f"{address}/v1/jobs", json=SMALL).json()["id"]
    training = threading.Thread(target=factories.run_in_turns, args=(service, worker, job_id))
    training.start()
    chance, seen, n_cuts = random.Random(0), [0], 0
    readers: list[list[int]] = []
    with httpx2.Client(base_url=address, timeout=30) as http:
        while n_cuts < N_CUTS or seen != [0]:
            n_bytes = chance.randrange(1, 2000)
            text, is_cut = read_some(http, job_id, after=seen[-1], n_bytes=n_bytes)
            seen += [int(event.id) for event in read(text) if event.id]
            n_cuts += is_cut
            if not is_cut:  # the job has ended: the next reader begins anew
                readers.append(seen[1:])
                seen = [0]
    training.join()
    assert len(readers) > 1
    for reader in readers:
        assert reader == told(service, job_id)


def read_some(http: httpx2.Client, job_id: str, *, after: int, n_bytes: int) -> tuple[str, bool]:
    """What comes until so many bytes have; the flag says that the stream was cut then."""
    url, headers = f"/v1/jobs/{job_id}/events/stream", {"Last-Event-ID": f"{after}"}
    text = ""
    with http.stream("GET", url, headers=headers) as answer:
        for chunk in answer.iter_raw(64):
            text += chunk.decode()
            if len(text) >= n_bytes:
                return text, True
    return text, False


@pytest.mark.slow
def test_progress_is_told_and_has_no_id(address: str, service: Service) -> None:
    worker = factories.ToyWorker(service)
    with Client(address) as client:
        job = client.create_job(SMALL)
        with httpx2.stream("GET", f"{address}/v1/jobs/{job.id}/events/stream") as answer:
            training = threading.Thread(
                target=factories.run_in_turns, args=(service, worker, job.id)
            )
            training.start()
            streamed = list(read_stream(answer.iter_lines()))
            training.join()
    progress = [event for event in streamed if event.type == "trial.progress"]
    assert progress
    data: dict[str, Any] = json.loads(progress[0].data)
    assert progress[0].id == ""
    assert "sequence" not in data
    assert data["job"] == job.id
    stored = [int(event.id) for event in streamed if event.id]
    assert stored == told(service, job.id)


def test_lines_of_a_stream_are_read_as_events() -> None:
    text = ": ping\n\nevent: a\ndata: 1\ndata: 2\nid: 7\n\ndata:3\n\nid: 8\n\ndata: cut"
    assert read(text) == [StreamedEvent("7", "a", "1\n2"), StreamedEvent("", "message", "3")]
