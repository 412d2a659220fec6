"""Arms: an exact budget, a winner, a lock."""

import pytest
from sqlalchemy.exc import IntegrityError
from tests.service.storage.rows import PROJECT, add_job

from dropt.storage import arms
from dropt.storage.arms import ArmRow
from dropt.storage.engine import Database


def only_arm(database: Database, job: str) -> ArmRow:
    with database.reading() as session:
        (row,) = arms.list_of(session, job, project=PROJECT)
    return row


def job_with_arm(database: Database, *, target: int = 64) -> str:
    with database.writing() as session:
        job = add_job(session).id
        arms.insert(
            session, job, "with", project=PROJECT, searched=True, target=target,
            study=f"{job}/with",
        )  # fmt: skip
    return job


@pytest.mark.parametrize(("k", "issued"), [(8, 64), (7, 63), (64, 64), (65, 0)])
def test_no_more_is_issued_than_the_target(database: Database, k: int, issued: int) -> None:
    job = job_with_arm(database)
    with database.writing() as session:
        while arms.issue(session, job, "with", k, project=PROJECT):
            pass
    assert only_arm(database, job).issued == issued


def test_a_closed_arm_issues_nothing_more(database: Database) -> None:
    job = job_with_arm(database)
    with database.writing() as session:
        assert arms.issue(session, job, "with", 5, project=PROJECT)
        assert arms.close(session, job, "with", project=PROJECT)
        assert not arms.issue(session, job, "with", 1, project=PROJECT)
    assert (only_arm(database, job).target, only_arm(database, job).issued) == (5, 5)


def test_winner_and_study_are_stored(database: Database) -> None:
    job = job_with_arm(database)
    winner = {"trial": "trl_1", "rates": {"hidden": 0.3}}
    with database.writing() as session:
        assert arms.set_winner(session, job, "with", winner, project=PROJECT)
        assert arms.set_study_id(session, job, "with", 7, project=PROJECT)
        assert not arms.set_winner(session, job, "unknown", winner, project=PROJECT)
    row = only_arm(database, job)
    assert (row.winner, row.study_id, row.study, row.searched) == (winner, 7, f"{job}/with", True)


def test_an_arm_is_there_once(database: Database) -> None:
    job = job_with_arm(database)
    with pytest.raises(IntegrityError), database.writing() as session:
        arms.insert(session, job, "with", project=PROJECT, searched=True, target=1)


def test_arms_are_listed_by_name(database: Database) -> None:
    job = job_with_arm(database)
    with database.writing() as session:
        arms.insert(session, job, "textbook", project=PROJECT, searched=False, target=0)
        listed = arms.list_of(session, job, project=PROJECT)
    assert [row.arm for row in listed] == ["textbook", "with"]


def test_one_transaction_at_a_time_schedules_an_arm(postgres_database_url: str) -> None:
    database = Database.open(postgres_database_url)
    with database.writing() as first, database.writing() as second:
        assert arms.try_lock(first, "job_1", "with")
        assert not arms.try_lock(second, "job_1", "with")
        assert arms.try_lock(second, "job_1", "without")
    with database.writing() as third:
        assert arms.try_lock(third, "job_1", "with")
    database.close()


def test_the_writer_of_sqlite_schedules_every_arm(sqlite_database_url: str) -> None:
    database = Database.open(sqlite_database_url)
    with database.writing() as session:
        assert arms.try_lock(session, "job_1", "with")
    database.close()
