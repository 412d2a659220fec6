"""Inspections: one per key, claimed by a worker that can do it, bounded in attempts."""

from collections.abc import Mapping
from typing import Any

import pytest
from tests.service.storage.rows import PROJECT, inspection, registration

from dropt.errors import NotFound
from dropt.spec.protocol import InspectionFailure
from dropt.storage import inspections, leases, workers
from dropt.storage.engine import Database
from dropt.storage.session import Session

FAILURE = InspectionFailure(reason="error", detail="no forward")


def anything(request: Mapping[str, Any]) -> bool:
    return True


def lease_of(session: Session, worker: str) -> str:
    return leases.open_lease(session, worker, "inspect", project=PROJECT).id


def new_worker(session: Session) -> str:
    return workers.register(session, registration(), project=PROJECT)


def test_a_key_is_inspected_once(database: Database) -> None:
    with database.writing() as session:
        assert inspections.find(session, "k", project=PROJECT) is None
        id = inspections.request(session, "k", {"model": "mlp"}, project=PROJECT)
        assert inspections.request(session, "k", {"model": "mlp"}, project=PROJECT) == id
        lease = lease_of(session, new_worker(session))
        claimed = inspections.claim(session, lease, anything, project=PROJECT)
        assert claimed is not None
        assert (claimed.id, claimed.attempt, claimed.request) == (id, 1, {"model": "mlp"})
        assert inspections.claim(session, lease, anything, project=PROJECT) is None
        assert inspections.finish(session, id, lease, inspection(), project=PROJECT)
        assert not inspections.finish(session, id, lease, FAILURE, project=PROJECT)
        assert inspections.request(session, "k", {"model": "mlp"}, project=PROJECT) == id
        found = inspections.find(session, "k", project=PROJECT)
    assert found is not None
    assert (found.state, found.result, found.failure) == ("done", inspection(), None)


def test_a_worker_gets_only_what_it_can_inspect(database: Database) -> None:
    with database.writing() as session:
        inspections.request(session, "a", {"model": "cnn"}, project=PROJECT)
        wanted = inspections.request(session, "b", {"model": "mlp"}, project=PROJECT)
        claimed = inspections.claim(
            session, lease_of(session, new_worker(session)),
            lambda request: request["model"] == "mlp", project=PROJECT,
        )  # fmt: skip
    assert claimed is not None
    assert claimed.id == wanted


def test_a_failed_inspection_is_tried_again_when_asked_again(database: Database) -> None:
    with database.writing() as session:
        id = inspections.request(session, "k", {}, project=PROJECT)
        lease = lease_of(session, new_worker(session))
        inspections.claim(session, lease, anything, project=PROJECT)
        assert inspections.finish(session, id, lease, FAILURE, project=PROJECT)
        assert inspections.get(session, id, project=PROJECT).failure == FAILURE
        assert inspections.request(session, "k", {}, project=PROJECT) == id
        row = inspections.get(session, id, project=PROJECT)
    assert (row.state, row.failure, row.attempt) == ("waiting", None, 0)


def test_only_the_lease_that_has_it_may_write(database: Database) -> None:
    with database.writing() as session:
        id = inspections.request(session, "k", {}, project=PROJECT)
        worker = new_worker(session)
        old = lease_of(session, worker)
        inspections.claim(session, old, anything, project=PROJECT)
        leases.expire(session, worker, project=PROJECT)
        new = lease_of(session, worker)
        assert inspections.claim(session, new, anything, project=PROJECT) is not None
        assert not inspections.finish(session, id, old, inspection(), project=PROJECT)
        assert not inspections.requeue(session, id, old, project=PROJECT)
        assert inspections.finish(session, id, new, inspection(), project=PROJECT)


def test_an_inspection_that_kills_its_worker_fails_in_the_end(database: Database) -> None:
    with database.writing() as session:
        id = inspections.request(session, "k", {}, project=PROJECT)
        worker = new_worker(session)
        for _ in range(3):
            lease = lease_of(session, worker)
            assert inspections.claim(session, lease, anything, project=PROJECT) is not None
            leases.expire(session, worker, project=PROJECT)
        lease = lease_of(session, worker)
        assert inspections.claim(session, lease, anything, project=PROJECT) is None
        row = inspections.get(session, id, project=PROJECT)
    assert row.failure is not None
    assert (row.state, row.failure.reason) == ("failed", "worker-lost")


def test_what_is_given_back_waits_and_counts_only_failures(database: Database) -> None:
    with database.writing() as session:
        id = inspections.request(session, "k", {}, project=PROJECT)
        worker = new_worker(session)
        for failed in (False, True, True):
            lease = lease_of(session, worker)
            inspections.claim(session, lease, anything, project=PROJECT)
            assert inspections.requeue(session, id, lease, project=PROJECT, failed=failed)
        row = inspections.get(session, id, project=PROJECT)
        with pytest.raises(NotFound):
            inspections.get(session, "ins_unknown", project=PROJECT)
    assert (row.state, row.attempt, row.failures) == ("waiting", 2, 2)
