from pathlib import Path
from typing import Any

import pytest
from tests.factories import (
    PROJECT,
    ToyWorker,
    arm_rows,
    job_row,
    make_service,
    run_in_threads,
    run_until,
    run_until_done,
    submit,
    trial_rows,
    violations,
)
from tests.service.conftest import Done

from dropt.jobs import verbs
from dropt.spec.protocol import Reason, TrialAssignment
from dropt.storage import jobs
from dropt.tuning import issuing
from dropt.tuning.issuing import MAX_OPEN, ensure_waiting
from dropt.tuning.seeds import trial_seed
from dropt.tuning.service import Service

ENDED = ("completed", "pruned", "failed")


def searching(service: Service, **fields: object) -> str:
    """A job in its search of which nothing is issued."""
    worker = ToyWorker(service)
    job_id = submit(service, **fields)
    run_until(service, worker, "search", job_id=job_id)
    return job_id


def numbers(service: Service, job_id: str) -> dict[str, list[int]]:
    rows = trial_rows(service, job_id, phase="search")
    return {arm: [row.number for row in rows if row.arm == arm] for arm in ("without", "with")}


# ---- exactly as many as asked for


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_worker_trains_exactly_the_trials_asked_for_in_each_arm(
    service: Service, seed: int
) -> None:
    job_id = submit_and_run(service, seed)
    assert_exact(service, job_id)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_four_workers_train_exactly_the_trials_asked_for_in_each_arm(
    service: Service, seed: int
) -> None:
    workers = [ToyWorker(service, name=f"w{i}", slots=4) for i in range(4)]
    job_id = submit(service, budget={"trials": 7}, search={"seed": seed}, evidence=False)
    run_in_threads(service, workers)
    assert_exact(service, job_id)


@pytest.mark.slow
def test_four_workers_take_a_whole_job_to_its_verdict(service_on_either: Service) -> None:
    service = service_on_either
    workers = [ToyWorker(service, name=f"w{i}", slots=4) for i in range(4)]
    job_id = submit(service, budget={"trials": 7})
    run_in_threads(service, workers)
    assert_exact(service, job_id)
    verdict = job_row(service, job_id).verdict
    assert verdict is not None
    assert verdict.verdict == "helps"


def submit_and_run(service: Service, seed: int) -> str:
    worker = ToyWorker(service, slots=5)
    job_id = submit(service, budget={"trials": 7}, search={"seed": seed}, evidence=False)
    run_until_done(service, worker)
    return job_id


def assert_exact(service: Service, job_id: str) -> None:
    rows = trial_rows(service, job_id, phase="search")
    for arm in ("without", "with"):
        mine = [row for row in rows if row.arm == arm]
        assert [row.number for row in mine] == list(range(7))
        assert all(row.state in ENDED for row in mine)
        assert all(row.attempt == 1 for row in mine)
    of_arm = arm_rows(service, job_id)
    assert {arm: row.issued for arm, row in of_arm.items() if row.searched} == {
        "without": 7, "with": 7,
    }  # fmt: skip
    assert not of_arm["textbook"].searched
    assert violations(service, job_id) == []


def test_failures_of_one_arm_take_nothing_from_the_other(service: Service) -> None:
    def failing(trial: TrialAssignment, epoch: int) -> Reason | None:
        return "diverged" if trial.arm == "with" else None

    worker = ToyWorker(service, failing=failing)
    job_id = submit(service, evidence=False)
    run_until_done(service, worker)
    rows = trial_rows(service, job_id)
    assert sum(row.arm == "with" and row.state == "failed" for row in rows) == 6
    assert sum(row.arm == "without" and row.state != "failed" for row in rows) == 6


# ---- which, and in which order


def test_first_trials_are_those_queued(done: Done) -> None:
    rows = done.trials(phase="search", arm="with")
    assert done.job.space is not None
    names = [group.group for group in done.job.space.groups]
    from_user, everywhere = rows[0].rates, rows[1].rates
    assert {site: of.rate for site, of in rows[0].sites.items()} == {"layers.1:out": 0.35}
    assert [rate for rate in from_user.values() if rate > 0] == [0.35]
    assert everywhere == dict.fromkeys(names, 0.2)
    alone = {group for row in rows for group, rate in row.rates.items() if is_alone(row.rates)}
    assert alone == set(names)
    defaults = {row.params for row in rows[: 2 + len(names)]}
    assert len(defaults) == 1
    first = done.trials(phase="search", arm="without")[0]
    assert (first.params, first.sites) == (rows[0].params, {})


def is_alone(rates: dict[str, float]) -> bool:
    return sum(rate > 0 for rate in rates.values()) == 1


def test_arms_go_on_evenly(service: Service) -> None:
    job_id = searching(service, budget={"trials": 20})
    for wanted, each in ((1, (0, 1)), (4, (2, 2)), (9, (4, 5))):
        ensure_waiting(service, job_row(service, job_id), wanted)
        assert tuple(sorted(map(len, numbers(service, job_id).values()))) == each


def test_what_waits_already_is_not_issued_again(service: Service) -> None:
    job_id = searching(service)
    for _ in range(3):
        ensure_waiting(service, job_row(service, job_id), 5)
    assert len(trial_rows(service, job_id)) == 5


def test_no_more_are_open_than_the_sampler_can_bear(service: Service) -> None:
    job_id = searching(service, budget={"trials": 40})
    ensure_waiting(service, job_row(service, job_id), 100)
    assert {len(found) for found in numbers(service, job_id).values()} == {MAX_OPEN}
    ending = {"with": 3}
    ensure_waiting(service, job_row(service, job_id), 100, ending=ending)
    assert len(numbers(service, job_id)["with"]) == MAX_OPEN + 3


def test_no_more_are_issued_than_the_budget_has(service: Service) -> None:
    job_id = searching(service, budget={"trials": 3})
    for _ in range(2):
        ensure_waiting(service, job_row(service, job_id), 100)
    assert numbers(service, job_id) == {"without": [0, 1, 2], "with": [0, 1, 2]}


def test_search_seeds_name_the_arm_and_the_number(done: Done) -> None:
    for row in done.trials(phase="search"):
        index = f"{row.arm}/{row.number}"
        assert (row.seed_index, row.seed) == (index, trial_seed(0, "search", index))


# ---- two who issue, and one who stops between asking and issuing


def test_job_that_has_ended_gets_no_trial(service: Service) -> None:
    job_id = searching(service)
    before = job_row(service, job_id)
    verbs.cancel(service, job_id, project=PROJECT)
    ensure_waiting(service, before, 5)
    assert trial_rows(service, job_id) == []
    assert {row.issued for row in arm_rows(service, job_id).values()} == {0}


def test_two_services_issue_no_number_twice(service: Service, tmp_path: Path) -> None:
    job_id = searching(service, budget={"trials": 12})
    other = make_service(service.database, tmp_path)
    job = job_row(service, job_id)
    other.memory(job, "with")  # built before the first has issued anything
    other.memory(job, "without")
    ensure_waiting(service, job, 4)
    ensure_waiting(other, job, 8)  # finds others' numbers, learns of them
    ensure_waiting(other, job, 8)
    ensure_waiting(service, job, 12)
    ensure_waiting(service, job, 12)
    assert numbers(service, job_id) == {"without": list(range(6)), "with": list(range(6))}
    assert violations(service, job_id) == []


def test_service_that_comes_second_issues_nothing_and_learns_what_was_issued(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one issues between the asking and the issuing of this one."""
    job_id = searching(service)
    job = job_row(service, job_id)
    other = make_service(service.database, tmp_path)
    real: Any = issuing._store
    results: list[bool] = []

    def store(of: Service, *more: Any) -> bool:
        if of is service and not results:
            ensure_waiting(other, job, 4)
        results.append(real(of, *more))
        return results[-1]

    monkeypatch.setattr(issuing, "_store", store)
    told = service.memory(job, "with")
    ensure_waiting(service, job, 4)
    assert results == [True, False]
    assert numbers(service, job_id) == {"without": [0, 1], "with": [0, 1]}
    assert service.memory(job, "with") is not told
    ensure_waiting(service, job, 8)
    assert numbers(service, job_id) == {"without": [0, 1, 2, 3], "with": [0, 1, 2, 3]}
    assert violations(service, job_id) == []


def test_nothing_is_taken_from_a_budget_when_one_arm_has_moved_on(
    service: Service, tmp_path: Path
) -> None:
    """What was taken without its trials would be missing for ever."""
    job_id = searching(service)
    job = job_row(service, job_id)
    proposals = issuing.propose(service, job, 4)
    other = make_service(service.database, tmp_path)
    theirs = {"without": issuing.propose(other, job, 2)["without"]}
    with service.database.writing() as session:
        assert issuing.issue(session, other, jobs.lock(session, job.id, project=PROJECT), theirs)
    with service.database.writing() as session:
        now = jobs.lock(session, job.id, project=PROJECT)
        assert set(proposals) == {"with", "without"}
        assert not issuing.issue(session, service, now, proposals)
    rows = arm_rows(service, job_id)
    assert (rows["without"].issued, rows["with"].issued) == (1, 0)


def test_service_that_stops_between_asking_and_issuing_asks_the_same_again(
    service: Service,
) -> None:
    job_id = searching(service)
    job = job_row(service, job_id)
    asked = [service.memory(job, "with").ask(number) for number in range(6)]
    service.forget(job.id)  # the process is gone, and its memory with it
    ensure_waiting(service, job, 12)
    rows = trial_rows(service, job_id, arm="with")
    assert [row.params for row in rows] == [proposal.point.params for proposal in asked]
    assert [row.sites for row in rows] == [proposal.point.sites for proposal in asked]


def test_transaction_that_fails_takes_nothing_out_of_the_budget(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = searching(service)
    job = job_row(service, job_id)
    with monkeypatch.context() as patch:
        patch.setattr("dropt.storage.trials.insert_many", broken)
        with pytest.raises(RuntimeError):
            ensure_waiting(service, job, 4)
    assert {row.issued for row in arm_rows(service, job_id).values()} == {0}
    ensure_waiting(service, job, 4)
    assert numbers(service, job_id) == {"without": [0, 1], "with": [0, 1]}


def broken(*args: object, **kw: object) -> None:
    raise RuntimeError("the disk is gone")


def test_search_that_is_over_is_left_alone(service: Service) -> None:
    job_id = searching(service, evidence=False, budget={"trials": 1})
    ensure_waiting(service, job_row(service, job_id), 2)
    with service.database.writing() as session:
        jobs.update(session, job_id, project=PROJECT, phase="evidence")
    ensure_waiting(service, job_row(service, job_id), 9)
    assert len(trial_rows(service, job_id)) == 2
