"""Processes that are killed in mid search: the job ends all the same, each trial exactly once."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.history import check
from tests.processes import Service, serving, until, worker_pids

from dropt.client import Client
from dropt.errors import DroptError
from dropt.spec.job import JobCreate
from dropt.spec.results import JobRead

pytestmark = [pytest.mark.slow, pytest.mark.crash]

BODY = {
    "model": "mlp",
    "dataset": "digits",
    "budget": {"trials": 12},
    "training": {"epochs": 36},
    "evidence": {"effort": "quick"},
}
SETTLE_S = 0.5  # what a worker sent before it was halted is stored by then


@pytest.fixture
def arguments(database_url: str) -> tuple[str, ...]:
    return ("--database-url", database_url)


def test_the_only_worker_is_killed_in_mid_search(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with serving(tmp_path / "run", *arguments) as service, service.client() as client:
        job = client.create_job(JobCreate.model_validate(BODY))
        _signal(_halt_mid_trial(service, client, job.id), signal.SIGKILL)
        _assert_whole(client, job.id)


def test_the_service_is_killed_in_mid_search(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    service = Service(tmp_path / "run", *arguments)
    with service.client() as client:
        job = client.create_job(JobCreate.model_validate(BODY))
        halted = _halt_mid_trial(service, client, job.id)
    service.kill()
    _signal(halted, signal.SIGCONT)
    with serving(tmp_path / "run", *arguments) as again, again.client() as client:
        _assert_whole(client, job.id)


def _halt_mid_trial(service: Service, client: Client, job_id: str) -> list[int]:
    """Halt the workers while a trial trains, however fast they are; their process ids.

    A halted worker sends nothing more, so what still runs after its last message has settled was
    caught in the middle. A halt between two trials is taken back and tried again.
    """
    halted: list[int] = []

    def caught_in_the_middle() -> bool:
        if not _running(client, job_id):
            return False
        halted[:] = worker_pids(service)
        _signal(halted, signal.SIGSTOP)
        time.sleep(SETTLE_S)
        if _running(client, job_id):
            return True
        _signal(halted, signal.SIGCONT)
        return False

    until(caught_in_the_middle, what="a trial to be halted in the middle")
    return halted


def _running(client: Client, job_id: str) -> bool:
    trials = client.iterate_trials(job_id)
    return any(t.state == "running" and t.epoch > 0 for t in trials)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # died with its service
            os.kill(pid, number)


def _assert_whole(client: Client, job_id: str) -> None:
    job = _finished(client, job_id)
    assert job.state == "succeeded", job.reason
    events = list(client.iterate_events(job_id))
    trials = list(client.iterate_trials(job_id))
    assert check(events, trials) == []
    for arm in ("without", "with"):
        mine = [t for t in trials if (t.arm, t.phase) == (arm, "search")]
        assert len(mine) == 12
        assert all(t.state in ("completed", "pruned") for t in mine)
    assert any(t.attempt > 1 for t in trials), "the kill came too late to be a test"


def _finished(client: Client, job_id: str) -> JobRead:
    job: JobRead | None = None

    def is_done() -> bool:
        nonlocal job
        try:
            job = client.get_job(job_id, wait_s=5)
        except DroptError:
            return False
        return job.done

    until(is_done, what="the job to end")
    assert job is not None
    return job
