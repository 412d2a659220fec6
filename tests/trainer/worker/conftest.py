import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from tests.trainer.worker.pace import PATIENCE_S, Clock, Epochs
from tests.trainer.worker.scripted_service import ScriptedService

from dropt.client import Client
from dropt_trainer.fused import lanes
from dropt_trainer.fused.driver import Driver
from dropt_trainer.worker import deadline, heartbeat, loop, retrying, speaker
from dropt_trainer.worker.loop import Worker
from dropt_trainer.worker.registration import registration

MakeWorker = Callable[[ScriptedService], Worker]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat a failed request after milliseconds; the doubling stays."""
    monkeypatch.setattr(retrying, "SHORTEST_S", 0.01)
    monkeypatch.setattr(retrying, "LONGEST_S", 0.05)


@pytest.fixture(autouse=True)
def short_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time a step or two: which lane is taken does not matter here."""
    monkeypatch.setattr(lanes, "N_WARM", 0)
    monkeypatch.setattr(lanes, "N_TIMED", 1)
    monkeypatch.setattr(lanes, "SLOTS_TRIED", (2,))


@pytest.fixture
def make_worker() -> Iterator[MakeWorker]:
    """A worker of a scripted service that is drained when the script has no more leases."""
    clients: list[Client] = []

    def make(service: ScriptedService) -> Worker:
        client = Client("http://service", transport=service.transport())
        clients.append(client)
        device = torch.device("cpu")
        worker = Worker(client, registration("test", device, 4), device, np.random.default_rng(0))
        service.idle = worker.pulse.drain.set
        return worker

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def in_thread() -> Iterator[Callable[[Worker], threading.Thread]]:
    """Start a worker beside the test, and see that it has ended."""
    started: list[tuple[Worker, threading.Thread]] = []

    def start(worker: Worker) -> threading.Thread:
        thread = threading.Thread(target=worker.run)
        thread.start()
        started.append((worker, thread))
        return thread

    yield start
    for worker, thread in started:
        worker.pulse.drain.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that leases run out by."""
    clock = Clock()
    for module in (deadline, heartbeat, loop, speaker):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def epochs(
    in_thread: object,  # its workers are waited for after the last epoch was allowed
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Epochs]:
    """The epochs of the test, none of which is allowed yet."""
    epochs, run_epoch = Epochs(), Driver.run_epoch

    def paced(driver: Driver) -> object:
        epochs.begin()
        return run_epoch(driver)

    monkeypatch.setattr(Driver, "run_epoch", paced)
    yield epochs
    epochs.allow(1_000_000)
