"""What must hold when many do the same at once: on SQLite and on PostgreSQL."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import pytest
from tests.service.storage.rows import (
    PROJECT,
    Scene,
    add_job,
    add_trials,
    claim,
    measured,
    open_lease,
    set_scene,
    spec,
)

from dropt.errors import LeaseLost
from dropt.spec.ids import TrialId
from dropt.storage import (
    arms,
    events,
    idempotency,
    inspections,
    jobs,
    leases,
    measurements,
    projects,
    trials,
)
from dropt.storage.engine import Database
from dropt.storage.trials import TrialRow

Result = TypeVar("Result")
BODY = "b" * 64


def at_once(n: int, work: Callable[[int], Result]) -> list[Result]:
    """Run `work(0)` to `work(n - 1)` in threads that start together."""
    start = threading.Barrier(n)

    def run(place: int) -> Result:
        start.wait()
        return work(place)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


def scene_in(database: Database, *, n_trials: int) -> Scene:
    with database.writing() as session:
        return set_scene(session, n_trials=n_trials)


def claim_all(database: Database, scene: Scene, *, limit: int) -> list[TrialRow]:
    """Claim as one more worker, until nothing is left."""
    with database.writing() as session:
        worker, lease = open_lease(session, scene.job.id)
    taken: list[TrialRow] = []
    while True:
        with database.writing() as session:
            more = trials.claim(
                session, lease, worker, scene.job.id, "search", project=PROJECT, limit=limit
            )
        if not more:
            return taken
        taken += more


def ids_of(groups: Sequence[list[TrialRow]]) -> Counter[TrialId]:
    return Counter(row.id for group in groups for row in group)


def test_claims_at_once_have_one_winner_for_each_trial(database: Database) -> None:
    scene = scene_in(database, n_trials=100)
    taken = at_once(16, lambda _: claim_all(database, scene, limit=3))
    assert ids_of(taken) == Counter(scene.ids)
    assert {row.attempt for group in taken for row in group} == {1}


def test_expired_trials_have_one_winner_too(database: Database) -> None:
    scene = scene_in(database, n_trials=40)
    with database.writing() as session:
        claim(session, scene)
        leases.expire(session, scene.worker, project=PROJECT)
    taken = at_once(8, lambda _: claim_all(database, scene, limit=3))
    assert ids_of(taken) == Counter(scene.ids)
    assert {row.attempt for group in taken for row in group} == {2}


def _claim_in_process(url: str, scene: Scene) -> list[TrialRow]:
    database = Database.open(url)
    try:
        return claim_all(database, scene, limit=1)
    finally:
        database.close()


@pytest.mark.slow
def test_processes_on_one_sqlite_file_have_one_winner_for_each_trial(
    sqlite_database_url: str,
) -> None:
    database = Database.open(sqlite_database_url)
    with database.writing() as session:
        projects.ensure(session, PROJECT)
    scene = scene_in(database, n_trials=60)
    database.close()
    with get_context("forkserver").Pool(4) as pool:
        taken = pool.starmap(_claim_in_process, [(sqlite_database_url, scene)] * 4, chunksize=1)
    assert ids_of(taken) == Counter(scene.ids)


def test_inspections_at_once_have_one_winner_each(database: Database) -> None:
    with database.writing() as session:
        keys = [str(number) for number in range(12)]
        for key in keys:
            inspections.request(session, key, {}, project=PROJECT)
        worker, _ = open_lease(session, add_job(session).id)

    def inspect(place: int) -> list[str]:
        taken: list[str] = []
        while True:
            with database.writing() as session:
                lease = leases.open_lease(session, worker, "inspect", project=PROJECT)
                row = inspections.claim(session, lease.id, lambda _: True, project=PROJECT)
            if row is None:
                return taken
            taken.append(row.key)

    assert sorted(key for group in at_once(8, inspect) for key in group) == sorted(keys)


def test_a_late_report_and_a_claim_never_both_win(database: Database) -> None:
    scene = scene_in(database, n_trials=30)
    with database.writing() as session:
        claim(session, scene)
        leases.expire(session, scene.worker, project=PROJECT)

    def report() -> list[TrialId]:
        accepted = []
        for id in scene.ids:
            try:
                with database.writing() as session:
                    leases.hold(session, [(id, 1)], project=PROJECT)
                    trials.finish(session, id, 1, project=PROJECT, state="completed")
            except LeaseLost:
                continue
            accepted.append(id)
        return accepted

    def work(place: int) -> list[TrialId]:
        if place == 0:
            return report()
        return [row.id for row in claim_all(database, scene, limit=2)]

    reported, *claimed = at_once(4, work)
    assert Counter([*reported, *(id for group in claimed for id in group)]) == Counter(scene.ids)


def test_reports_that_name_trials_in_any_order_do_not_block_each_other(
    database: Database,
) -> None:
    scene = scene_in(database, n_trials=8)
    with database.writing() as session:
        claim(session, scene)
    pairs = [(id, 1) for id in scene.ids]

    def report(place: int) -> int:
        for _ in range(15):
            with database.writing() as session:
                leases.hold(session, pairs[:: (-1) ** place], project=PROJECT)
        return place

    assert at_once(4, report) == [0, 1, 2, 3]


def test_budgets_are_exact_under_concurrent_issuers(database: Database) -> None:
    with database.writing() as session:
        job = add_job(session).id
        arms.insert(session, job, "with", project=PROJECT, searched=True, target=64)

    def issue(place: int) -> int:
        n_issued, k = 0, place % 3 + 1
        while True:
            with database.writing() as session:
                if not arms.issue(session, job, "with", k, project=PROJECT):
                    return n_issued
            n_issued += k

    n_issued = sum(at_once(8, issue))
    with database.reading() as session:
        (arm,) = arms.list_of(session, job, project=PROJECT)
    assert n_issued == arm.issued == 64  # issuers of one take what is left


def test_one_key_makes_one_job_however_many_send_it(database: Database) -> None:
    def send(place: int) -> str:
        with database.writing() as session:
            first = idempotency.reserve(session, "/v1/jobs", "key", BODY, project=PROJECT)
            if first is not None:
                return str(first.answer["id"])
            made = jobs.insert(
                session, spec(), project=PROJECT, name=str(place), labels={}, priority=0
            )
            idempotency.store(
                session, "/v1/jobs", "key", BODY, 202, {}, {"id": made.id}, project=PROJECT
            )
            return made.id

    answers = at_once(20, send)
    with database.reading() as session:
        made = jobs.list_page(session, project=PROJECT, limit=99)
    assert set(answers) == {row.id for row in made}
    assert len(made) == 1


def test_a_sender_whose_first_failed_does_the_work_itself(database: Database) -> None:
    def send(place: int) -> bool:
        """Whether this sender was told to do the work; the first one then fails."""
        try:
            with database.writing() as session:
                first = idempotency.reserve(session, "/v1/jobs", "key", BODY, project=PROJECT)
                if first is not None:
                    return False
                if place < 3:
                    raise ConnectionError
                idempotency.store(session, "/v1/jobs", "key", BODY, 202, {}, {}, project=PROJECT)
        except ConnectionError:
            return False
        return True

    assert sum(at_once(6, send)) == 1


def test_event_sequences_have_no_gap_and_are_seen_in_order(database: Database) -> None:
    with database.writing() as session:
        job = add_job(session).id
    n_writers, n_each = 6, 15

    def write() -> list[int]:
        for number in range(n_each):
            with database.writing() as session:
                events.record(session, job, "one", project=PROJECT)
                events.record(session, job, "two", project=PROJECT, number=number)
        return []

    def follow() -> list[int]:
        seen: list[int] = []
        while len(seen) < 2 * n_writers * n_each:
            with database.reading() as session:
                after = seen[-1] if seen else 0
                new = events.list_after(session, job, project=PROJECT, after=after, limit=50)
            seen += [one.sequence for one in new]
        return seen

    seen = at_once(n_writers + 1, lambda place: write() if place else follow())[0]
    assert seen == list(range(1, 2 * n_writers * n_each + 1))


def test_pages_of_jobs_miss_and_double_nothing_while_jobs_arrive(database: Database) -> None:
    with database.writing() as session:
        there = [add_job(session).id for _ in range(30)]

    def submit() -> list[str]:
        for _ in range(20):
            with database.writing() as session:
                add_job(session)
        return []

    def read() -> list[str]:
        seen: list[jobs.JobRow] = []
        while True:
            with database.reading() as session:
                after = (seen[-1].created_at, seen[-1].id) if seen else None
                page = jobs.list_page(session, project=PROJECT, limit=3, after=after)
            if not page:
                return [row.id for row in seen]
            seen += page

    seen = at_once(2, lambda place: submit() if place else read())[0]
    assert len(seen) == len(set(seen))
    assert [id for id in seen if id in set(there)] == there[::-1]


def test_pages_of_trials_miss_nothing_while_trials_arrive(database: Database) -> None:
    scene = scene_in(database, n_trials=0)

    def ask() -> list[int]:
        for place in range(30):
            with database.writing() as session:
                add_trials(session, scene.job.id, 4, first=4 * place)
        return []

    def read() -> list[int]:
        seen: list[TrialRow] = []
        while len(seen) < 120:
            with database.reading() as session:
                after = (seen[-1].number, seen[-1].id) if seen else None
                seen += trials.list_page(
                    session, scene.job.id, project=PROJECT, limit=7, after=after
                )
        return [row.number for row in seen]

    assert at_once(2, lambda place: ask() if place else read())[0] == list(range(120))


def test_measurements_of_many_reports_add_up(database: Database) -> None:
    scene = scene_in(database, n_trials=4)

    def report(place: int) -> None:
        for epoch in range(1, 11):
            with database.writing() as session:
                point = measured(scene.ids[place], epoch)
                measurements.add_many(session, [point], project=PROJECT)

    at_once(4, report)
    with database.reading() as session:
        used = measurements.consumed(session, scene.job.id, project=PROJECT)
        rows = [trials.get(session, id, project=PROJECT) for id in scene.ids]
    assert used == {("with", "search"): (40, 10.0)}
    assert [(row.epoch, row.seconds) for row in rows] == [(10, 2.5)] * 4
