"""Processes that are killed in mid search: the job ends all the same, each trial exactly once."""

import os
import signal
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
    "training": {"epochs": 24},
    "evidence": {"effort": "quick"},
}


@pytest.fixture
def arguments(database_url: str) -> tuple[str, ...]:
    return ("--database-url", database_url)


def test_the_only_worker_is_killed_in_mid_search(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with serving(tmp_path / "run", *arguments) as service, service.client() as client:
        job = client.create_job(JobCreate.model_validate(BODY))
        _reach_mid_search(client, job.id)
        for pid in worker_pids(service):
            os.kill(pid, signal.SIGKILL)
        _assert_whole(client, job.id)


def test_the_service_is_killed_in_mid_search(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    service = Service(tmp_path / "run", *arguments)
    with service.client() as client:
        job = client.create_job(JobCreate.model_validate(BODY))
        _reach_mid_search(client, job.id)
    service.kill()
    with serving(tmp_path / "run", *arguments) as again, again.client() as client:
        _assert_whole(client, job.id)


def _reach_mid_search(client: Client, job_id: str) -> None:
    """Wait for a first value of a trial that trains: it has most of its epochs still to go."""

    def some_report() -> bool:
        trials = client.iterate_trials(job_id)
        return any(t.state == "running" and t.epoch > 0 for t in trials)

    until(some_report, what="a running trial to report")


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
