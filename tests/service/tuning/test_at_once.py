"""Everything at once, over both databases: workers that leave, give back, die and report.

By hand: `pytest -m soak tests/service/tuning/test_at_once.py`. With the job locked after its
trials instead of before them, PostgreSQL found three deadlocks in 24 s (2 cores, 5 workers).
"""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic

import pytest
from tests.factories import (
    PROJECT,
    ToyWorker,
    background,
    is_active,
    job_row,
    lose,
    submit,
    violations,
)

from dropt.errors import LeaseLost, NotFound
from dropt.jobs import catalogue, verbs
from dropt.spec.protocol import Heartbeat, Lease
from dropt.tuning import scheduler
from dropt.tuning.service import Service

pytestmark = [pytest.mark.slow, pytest.mark.soak]

PATIENCE_S = 120.0
N_WORKERS = 5


def live(service: Service, name: str, rng: random.Random) -> None:
    """The life of a worker, until it is sent away."""
    worker = ToyWorker(service, name=name, slots=rng.choice([2, 4]))
    with suppress(LeaseLost):
        lease = worker.lease()
        if lease is not None and lease.kind == "inspect":
            worker.inspect(lease)
        elif lease is not None:
            train_or_leave(service, worker, lease, rng)


def train_or_leave(service: Service, worker: ToyWorker, lease: Lease, rng: random.Random) -> None:
    def beat(*_: object) -> None:
        if rng.random() < 0.3:
            body = Heartbeat(leases=(lease.id,))
            scheduler.heartbeat(service, worker.id, body, project=PROJECT)

    worker.on_report = beat
    match rng.choice(["train"] * 7 + ["give back", "retire", "die"]):
        case "train":
            worker.train(lease)
        case "give back":
            scheduler.give_back(service, lease.id, project=PROJECT)
        case "die":
            lose(service, worker)
            return
    scheduler.retire(service, worker.id, project=PROJECT)


def send_away(service: Service, rng: random.Random) -> None:
    """Some worker retires in the middle of its reports."""
    found = catalogue.list_workers(service, project=PROJECT, limit=N_WORKERS)
    scheduler.retire(service, rng.choice(found)[0].id, project=PROJECT)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_is_lost_or_doubled_and_nobody_waits_for_ever(
    service_on_either: Service, seed: int
) -> None:
    service, ended = service_on_either, threading.Event()
    ToyWorker(service, name="first")
    jobs = [submit(service, search={"seed": i}, budget={"trials": 10}) for i in range(3)]

    def work(number: int) -> None:
        rng = random.Random(100 * seed + number)
        while not ended.is_set():
            with suppress(NotFound):
                if number:
                    live(service, f"w{number}", rng)
                else:
                    send_away(service, rng)
            ended.wait(0.15 if number == 0 else 0.01)

    deadline = monotonic() + PATIENCE_S
    with background(service), ThreadPoolExecutor(N_WORKERS + 1) as pool:
        threads = [pool.submit(work, number) for number in range(N_WORKERS + 1)]
        ended.wait(2.0)
        verbs.cancel(service, jobs[2], project=PROJECT)
        while is_active(service) and monotonic() < deadline:
            if any(thread.done() for thread in threads):
                break
            ended.wait(0.05)
        ended.set()
        for thread in threads:
            thread.result()
    assert [job_row(service, id).state for id in jobs] == ["succeeded", "succeeded", "cancelled"]
    for id in jobs:
        assert violations(service, id) == []
