"""Processes that are killed in mid search: the job ends all the same, each trial exactly once."""

import os
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.history import check
from tests.processes import SHORT_LEASES, Service, finished, serving, until, worker_pids

from dropt.client import Client
from dropt.spec.job import JobCreate
from dropt.spec.results import FINAL_TRIAL_STATES, TrialRead

pytestmark = [pytest.mark.slow, pytest.mark.crash]

BODY = {
    "model": "mlp",
    "dataset": "digits",
    "budget": {"trials": 12},
    "training": {"epochs": 36},
    "evidence": {"effort": "quick"},
}
SETTLE_S = 0.5  # what a worker sent before it was halted is mostly stored by then


@pytest.fixture
def arguments(database_url: str) -> tuple[str, ...]:
    return ("--database-url", database_url)


def test_the_only_worker_is_killed_in_mid_search(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with serving(tmp_path / "run", *arguments) as service, service.client() as client:
        job = client.create_job(JobCreate.model_validate(BODY))
        is_hit = False
        while not is_hit:
            caught, halted = _halt_mid_trial(service, client, job.id)
            _signal(halted, signal.SIGKILL)
            is_hit = _began_again(client, job.id, caught)
        _assert_whole(client, job.id)


def test_the_service_is_killed_in_mid_search(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with ExitStack() as stack:
        service = _start(stack, tmp_path / "run", *arguments)
        with service.client() as client:
            job = client.create_job(JobCreate.model_validate(BODY))
        is_hit = False
        while not is_hit:
            with service.client() as client:
                caught, halted = _halt_mid_trial(service, client, job.id)
            service.kill()
            _signal(halted, signal.SIGCONT)
            service = _start(stack, tmp_path / "run", *arguments)
            with service.client() as client:
                is_hit = _began_again(client, job.id, caught)
        with service.client() as client:
            _assert_whole(client, job.id)


def _start(stack: ExitStack, state: Path, *arguments: str) -> Service:
    """A service whose leases end soon after it: the next one waits for that."""
    service = Service(state, *arguments, environment=SHORT_LEASES)
    stack.callback(service.stop)
    return service


def _halt_mid_trial(
    service: Service, client: Client, job_id: str
) -> tuple[list[TrialRead], list[int]]:
    """Halt the workers while trials train, however fast they are; the trials, the process ids.

    A halted worker sends nothing more, so what still runs after its last message has settled was
    caught in the middle. A halt between two trials is taken back and tried again.
    """
    caught: list[TrialRead] = []
    halted: list[int] = []

    def caught_in_the_middle() -> bool:
        assert not client.get_job(job_id).done, "every kill came between two trials"
        if not _running(client, job_id):
            return False
        halted[:] = worker_pids(service)
        _signal(halted, signal.SIGSTOP)
        time.sleep(SETTLE_S)
        caught[:] = _running(client, job_id)
        if not (halted and caught):
            _signal(halted, signal.SIGCONT)
        return bool(halted and caught)

    until(caught_in_the_middle, what="a trial to be halted in the middle")
    return caught, halted


def _began_again(client: Client, job_id: str, caught: list[TrialRead]) -> bool:
    """Whether one of these trials is attempted again: not all had ended in a last message."""
    ids = {trial.id for trial in caught}
    now: list[TrialRead] = []

    def have_gone_on() -> bool:
        now[:] = [trial for trial in client.iterate_trials(job_id) if trial.id in ids]
        return all(one.attempt > 1 or one.state in FINAL_TRIAL_STATES for one in now)

    until(have_gone_on, what="the trials of the killed worker to go on")
    return any(one.attempt > 1 for one in now)


def _running(client: Client, job_id: str) -> list[TrialRead]:
    """Trials in their first attempt with an epoch behind them."""
    trials = client.iterate_trials(job_id)
    return [t for t in trials if t.state == "running" and t.epoch > 0 and t.attempt == 1]


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # died with its service
            os.kill(pid, number)


def _assert_whole(client: Client, job_id: str) -> None:
    job = finished(client, job_id)
    assert job.state == "succeeded", job.reason
    events = list(client.iterate_events(job_id))
    trials = list(client.iterate_trials(job_id))
    assert check(events, trials) == []
    for arm in ("without", "with"):
        mine = [t for t in trials if (t.arm, t.phase) == (arm, "search")]
        assert len(mine) == 12
        assert all(t.state in ("completed", "pruned") for t in mine)
