"""Quotas, on both databases: what one project may have open, also when many ask at once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from tests.factories import PROJECT, ToyWorker, advance_all, job_body

from dropt.errors import QuotaExceeded
from dropt.jobs import lists, verbs
from dropt.jobs.quotas import n_trials
from dropt.spec.results import JobRead
from dropt.tuning.service import Quotas, Service


def submit(service: Service) -> JobRead:
    return verbs.submit(service, job_body(), project=PROJECT)[0]


def test_many_senders_at_once_do_not_pass_the_limit(service_on_either: Service) -> None:
    service, n_senders = service_on_either, 8
    ToyWorker(service)
    service.quotas = Quotas(queued_jobs=3)
    start = Barrier(n_senders)

    def send(_: int) -> bool:
        start.wait()
        try:
            submit(service)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(n_senders) as pool:
        admitted = sum(pool.map(send, range(n_senders)))
    assert admitted == len(lists.list_jobs(service, project=PROJECT, limit=99)) == 3


def test_open_trials_of_unfinished_jobs_are_counted_together(service_on_either: Service) -> None:
    service = service_on_either
    ToyWorker(service)
    first = submit(service)
    one = n_trials(first.spec)
    service.quotas = Quotas(open_trials=2 * one)
    submit(service)
    with pytest.raises(QuotaExceeded, match="DROPT_LIMIT_OPEN_TRIALS") as caught:
        submit(service)
    assert caught.value.members == {"limit": 2 * one}
    verbs.cancel(service, first.id, project=PROJECT)
    advance_all(service)
    assert lists.read_job(service, first.id, project=PROJECT).done
    submit(service)


def test_arms_that_search_count_and_the_textbook_does_not(service: Service) -> None:
    ToyWorker(service)
    body = job_body(compare={"arms": ["without", "with", "textbook"]}, budget={"trials": 7})
    assert n_trials(verbs.submit(service, body, project=PROJECT)[0].spec) == 14


def test_job_over_the_limit_of_running_ones_stays_queued_and_says_why(service: Service) -> None:
    ToyWorker(service)
    service.quotas = Quotas(running_jobs=1)
    first, second = submit(service), submit(service)
    advance_all(service)
    advance_all(service)
    read = lists.read_job(service, second.id, project=PROJECT)
    assert (read.state, lists.read_job(service, first.id, project=PROJECT).state) == (
        "queued", "running",
    )  # fmt: skip
    assert read.reason == "Waiting for one of the 1 running jobs of this project to end."
    verbs.cancel(service, first.id, project=PROJECT)
    for _ in range(3):
        advance_all(service)
    assert lists.read_job(service, second.id, project=PROJECT).state == "running"
