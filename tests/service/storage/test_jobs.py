"""Jobs: stored and read back, moved by conditional updates, listed in pages."""

from datetime import timedelta

import pytest
from tests.service.storage.rows import PROJECT, add_job, spec

from dropt.errors import NotFound
from dropt.spec.results import Failure
from dropt.spec.space import Group, Range, Space
from dropt.storage import jobs
from dropt.storage.engine import Database

SPACE = Space(
    fingerprint="51ab",
    sites=(),
    groups=(
        Group(group="hidden", sites=("layers.1:out",), kinds=("element",), low=0.05,
              high=0.6, step=0.05, zero_codes=3, start=0.2),
    ),
    also={"lr": Range(low=1e-4, high=1e-1, log=True), "l1": 0.0},
)  # fmt: skip


def test_a_job_is_read_back_as_it_was_stored(database: Database) -> None:
    with database.writing() as session:
        stored = add_job(session)
    with database.reading() as session:
        row = jobs.get(session, stored.id, project=PROJECT)
    assert row == stored
    assert (row.spec, row.labels, row.revision, row.state) == (
        spec(), {"team": "vision"}, 1, "queued",
    )  # fmt: skip
    assert (row.space, row.verdict, row.failure, row.is_done) == (None, None, None, False)


def test_an_unknown_job_is_not_found(database: Database) -> None:
    with database.writing() as session:
        for read in (jobs.get, jobs.lock):
            with pytest.raises(NotFound, match="job_unknown"):
                read(session, "job_unknown", project=PROJECT)


def test_a_job_moves_only_from_the_states_named(database: Database) -> None:
    failure = Failure(reason="data", message="the digest differs")
    with database.writing() as session:
        id = add_job(session).id
        assert jobs.move(
            session, id, project=PROJECT, from_=("queued",), state="running", space=SPACE
        )
        assert not jobs.move(session, id, project=PROJECT, from_=("queued",), state="cancelled")
        assert jobs.move(
            session, id, project=PROJECT, from_=("queued", "running"), state="failed",
            failure=failure,
        )  # fmt: skip
        row = jobs.get(session, id, project=PROJECT)
    assert (row.revision, row.state, row.failure, row.space) == (3, "failed", failure, SPACE)
    assert row.is_done


def test_an_update_raises_the_revision_and_can_clear_a_value(database: Database) -> None:
    with database.writing() as session:
        id = add_job(session).id
        jobs.update(session, id, project=PROJECT, space=SPACE, warnings=("slow",))
        jobs.update(session, id, project=PROJECT, space=None)
        row = jobs.get(session, id, project=PROJECT)
    assert (row.revision, row.space, row.warnings) == (3, None, ("slow",))


def test_pages_show_each_job_once_newest_first(database: Database) -> None:
    with database.writing() as session:
        ids = [add_job(session).id for _ in range(7)]
    seen: list[jobs.JobRow] = []
    with database.reading() as session:
        while page := jobs.list_page(
            session, project=PROJECT, limit=3,
            after=(seen[-1].created_at, seen[-1].id) if seen else None,
        ):  # fmt: skip
            seen += page
    assert [row.id for row in seen] == ids[::-1]


def test_jobs_of_one_moment_are_paged_by_id(database: Database) -> None:
    with database.writing() as session:
        rows = [add_job(session) for _ in range(3)]
        for row in rows:
            jobs.update(session, row.id, project=PROJECT, created_at=rows[0].created_at)
        after = (rows[0].created_at, rows[1].id)
        page = jobs.list_page(session, project=PROJECT, limit=9, after=after)
    assert [row.id for row in page] == [rows[0].id]


def test_filters_of_the_list(database: Database) -> None:
    with database.writing() as session:
        first, second = add_job(session), add_job(session)
        jobs.move(session, second.id, project=PROJECT, from_=("queued",), state="running")

        def n(**filters: object) -> int:
            return len(jobs.list_page(session, project=PROJECT, limit=9, **filters))  # type: ignore[arg-type]  # names of filters

        assert (n(state=("running",)), n(state=("running", "queued"))) == (1, 2)
        assert (n(model="mlp"), n(model="cnn"), n(dataset="digits")) == (2, 0, 2)
        assert n(label=[("team", "vision")]) == 2
        assert n(label=[("team", "speech")]) == n(label=[("vision", "team")]) == 0
        assert n(created_after=first.created_at - timedelta(seconds=1)) == 2
        assert n(created_after=second.created_at) == 0
        assert n(has_verdict=True) == 0


@pytest.mark.parametrize("name", ['a"b', "a'b", "$.a", "a.b", "ключ", "%", ""])
def test_any_label_name_can_be_looked_for(database: Database, name: str) -> None:
    with database.writing() as session:
        jobs.insert(session, spec(), project=PROJECT, name="x", labels={name: "v"}, priority=0)
        assert len(jobs.list_page(session, project=PROJECT, limit=9, label=[(name, "v")])) == 1
        assert jobs.list_page(session, project=PROJECT, limit=9, label=[(name, "w")]) == []


def test_active_jobs_are_served_by_priority_then_age(database: Database) -> None:
    with database.writing() as session:
        low, high, done = (add_job(session) for _ in range(3))
        jobs.update(session, high.id, project=PROJECT, priority=5)
        jobs.update(session, done.id, project=PROJECT, state="succeeded")
        assert [row.id for row in jobs.active(session)] == [high.id, low.id]
        assert jobs.count(session, project=PROJECT, state=("queued", "running")) == 2
