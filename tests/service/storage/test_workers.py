"""Workers: registered with what they offer, live while they are heard."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from tests.service.storage.rows import (
    PROJECT,
    claim,
    dataset_offer,
    model_offer,
    registration,
    set_scene,
)

from dropt.errors import NameTaken, NotFound
from dropt.spec.protocol import LossOffer
from dropt.storage import clock, datasets, workers
from dropt.storage.engine import Database
from dropt.storage.session import Session
from dropt.storage.tables import worker


def silence(session: Session, id: str, seconds: float) -> None:
    at = clock.now(session) - timedelta(seconds=seconds)
    session.execute(update(worker).where(worker.c.id == id).values(last_seen_at=at))


def test_a_worker_is_read_back_with_its_load(database: Database) -> None:
    with database.writing() as session:
        idle = workers.register(session, registration("idle"), project=PROJECT)
        scene = set_scene(session, n_trials=2, name="busy")
        claim(session, scene)
        rows = [workers.get(session, id, project=PROJECT) for id in (idle, scene.worker)]
    assert [(row.name, row.n_busy, row.job_id) for row in rows] == [
        ("idle", 0, None),
        ("busy", 2, scene.job.id),
    ]
    assert rows[0].registration == registration("idle")


@pytest.mark.parametrize(("seconds", "state"), [(0, "live"), (29, "live"), (31, "gone")])
def test_a_worker_is_gone_after_30_seconds_of_silence(
    database: Database, seconds: float, state: str
) -> None:
    with database.writing() as session:
        id = workers.register(session, registration(), project=PROJECT)
        silence(session, id, seconds)
        assert workers.get(session, id, project=PROJECT).state == state
        n_live = workers.offers(session, project=PROJECT).models["mlp"].n_workers
        assert n_live == (1 if state == "live" else 0)
        assert workers.touch(session, id, project=PROJECT)  # late, but it is still there
        assert workers.get(session, id, project=PROJECT).state == "live"


def test_a_worker_that_left_must_register_again(database: Database) -> None:
    with database.writing() as session:
        id = workers.register(session, registration(), project=PROJECT)
        assert workers.retire(session, id, project=PROJECT)
        assert not workers.retire(session, id, project=PROJECT)
        assert not workers.touch(session, id, project=PROJECT)
        assert not workers.touch(session, "wrk_unknown", project=PROJECT)
        assert workers.get(session, id, project=PROJECT).state == "gone"
        with pytest.raises(NotFound):
            workers.get(session, "wrk_unknown", project=PROJECT)


def test_the_catalogue_counts_live_workers_and_keeps_what_was_ever_offered(
    database: Database,
) -> None:
    newer = model_offer().model_copy(update={"package": "dropt 0.2"})
    with database.writing() as session:
        old = workers.register(session, registration("old"), project=PROJECT)
        newest = registration("new").model_copy(update={"models": (newer,), "datasets": ()})
        workers.register(session, newest, project=PROJECT)
        datasets.insert_uploaded(
            session, dataset_offer("mine", digest="a" * 64), 99, project=PROJECT
        )
        both = workers.offers(session, project=PROJECT)
        workers.retire(session, old, project=PROJECT)
        one = workers.offers(session, project=PROJECT)
    assert both.models == {"mlp": (newer, 2)}
    assert both.datasets["digits"] == (dataset_offer(), "offered", 1)
    assert (one.models["mlp"].n_workers, one.datasets["digits"].n_workers) == (1, 0)
    assert one.datasets["mine"] == (dataset_offer("mine", digest="a" * 64), "uploaded", 0)


def test_losses_are_those_of_workers_that_have_not_left(database: Database) -> None:
    offer = LossOffer(name="focal", package="own 1")
    with database.writing() as session:
        own = registration().model_copy(update={"losses": (offer,)})
        id = workers.register(session, own, project=PROJECT)
        workers.register(session, registration("plain"), project=PROJECT)
        assert workers.losses(session, project=PROJECT) == {"focal"}
        workers.retire(session, id, project=PROJECT)
        assert workers.losses(session, project=PROJECT) == frozenset()


def test_a_data_set_of_another_digest_is_refused_and_nothing_is_stored(
    database: Database,
) -> None:
    with database.writing() as session:
        workers.register(session, registration(), project=PROJECT)
    with pytest.raises(NameTaken, match="digits"), database.writing() as session:
        workers.register(session, registration("b", digest="a" * 64), project=PROJECT)
    with database.reading() as session:
        assert len(workers.list_page(session, project=PROJECT, limit=9)) == 1


def test_pages_of_workers_are_newest_first(database: Database) -> None:
    with database.writing() as session:
        ids = [workers.register(session, registration(), project=PROJECT) for _ in range(5)]
        first = workers.list_page(session, project=PROJECT, limit=2)
        after = (first[-1].registered_at, first[-1].id)
        second = workers.list_page(session, project=PROJECT, limit=9, after=after)
    assert [row.id for row in (*first, *second)] == ids[::-1]
