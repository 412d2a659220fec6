"""Looks: stored once, read in order."""

import pytest
from sqlalchemy.exc import IntegrityError
from tests.service.storage.rows import PROJECT, add_job

from dropt.storage import verdicts
from dropt.storage.engine import Database


def test_looks_are_read_in_order(database: Database) -> None:
    with database.writing() as session:
        job = add_job(session).id
        for attempt, look in ((1, 2), (2, 1), (1, 1)):
            seen = {"effect": 0.01 * look, "interval": (-0.1, 0.1)}
            verdicts.add_look(session, job, attempt, look, "go_on", seen, project=PROJECT)
        looks = verdicts.list_looks(session, job, project=PROJECT)
        of_first = verdicts.list_looks(session, job, project=PROJECT, attempt=1)
    assert [(row.attempt, row.look) for row in looks] == [(1, 1), (1, 2), (2, 1)]
    assert [row.look for row in of_first] == [1, 2]
    assert looks[1].result == {"effect": 0.02, "interval": [-0.1, 0.1]}


def test_a_look_is_never_changed(database: Database) -> None:
    with database.writing() as session:
        job = add_job(session).id
        verdicts.add_look(session, job, 1, 1, "go_on", {"effect": 1.0}, project=PROJECT)
    with pytest.raises(IntegrityError), database.writing() as session:
        verdicts.add_look(session, job, 1, 1, "helps", {"effect": 2.0}, project=PROJECT)
    with database.reading() as session:
        (row,) = verdicts.list_looks(session, job, project=PROJECT)
    assert (row.decision, row.result) == ("go_on", {"effect": 1.0})
