import hashlib

import pytest
from tests.factories import (
    DIGEST,
    PROJECT,
    ToyWorker,
    dataset,
    refused,
    search_lease,
)

from dropt.errors import DigestMismatch, NameTaken, NotFound
from dropt.jobs import catalogue
from dropt.spec.protocol import DatasetOffer
from dropt.tuning import scheduler
from dropt.tuning.service import Service

CONTENT = b"the canonical npz"


def offer(name: str = "mine", content: bytes = CONTENT) -> DatasetOffer:
    digest = hashlib.sha256(content).hexdigest()
    return dataset(name).model_copy(update={"sha256": digest})


def test_names_cannot_be_judged_before_the_first_worker(service: Service) -> None:
    assert catalogue.is_empty(service, project=PROJECT)
    worker = ToyWorker(service)
    assert not catalogue.is_empty(service, project=PROJECT)
    scheduler.retire(service, worker.id, project=PROJECT)
    assert not catalogue.is_empty(service, project=PROJECT)  # what was offered is known


def test_models_and_data_sets_are_told_with_their_live_workers(service: Service) -> None:
    first, second = ToyWorker(service, name="a"), ToyWorker(service, name="b")
    (model,) = catalogue.list_models(service, project=PROJECT)
    assert (model.name, model.workers) == ("mlp", 2)
    digits, houses = catalogue.list_datasets(service, project=PROJECT)
    assert (digits.name, digits.kind, digits.workers) == ("digits", "offered", 2)
    assert (houses.task, houses.classes) == ("regression", None)
    for worker in (first, second):
        scheduler.retire(service, worker.id, project=PROJECT)
    assert [one.workers for one in catalogue.list_models(service, project=PROJECT)] == [0]


def test_uploaded_data_set_can_be_read_back(service: Service) -> None:
    read = catalogue.add_dataset(service, offer(), CONTENT, project=PROJECT)
    assert (read.name, read.kind) == ("mine", "uploaded")
    assert catalogue.read_dataset(service, "mine", project=PROJECT) == read
    path = catalogue.content_path(service, "mine", project=PROJECT)
    assert path.read_bytes() == CONTENT


def test_name_stands_for_one_content(service: Service) -> None:
    catalogue.add_dataset(service, offer(), CONTENT, project=PROJECT)
    again = catalogue.add_dataset(service, offer(), CONTENT, project=PROJECT)
    assert again.sha256 == offer().sha256
    other = offer(content=b"other")
    with pytest.raises(NameTaken):
        catalogue.add_dataset(service, other, b"other", project=PROJECT)


def test_content_of_another_digest_is_refused(service: Service) -> None:
    with pytest.raises(DigestMismatch):
        catalogue.add_dataset(service, offer(), b"tampered", project=PROJECT)
    assert catalogue.list_datasets(service, project=PROJECT) == []


def test_data_set_of_the_workers_has_no_content_here(service: Service) -> None:
    ToyWorker(service)
    error = refused(lambda: catalogue.content_path(service, "digits", project=PROJECT))
    assert isinstance(error, NotFound)
    assert DIGEST not in error.detail
    for call in (catalogue.content_path, catalogue.read_dataset):
        with pytest.raises(NotFound):
            call(service, "nothing", project=PROJECT)


def test_workers_are_told_newest_first_with_what_they_do(service: Service) -> None:
    worker, lease = search_lease(service, slots=3)
    idle = ToyWorker(service, name="idle")
    found = catalogue.list_workers(service, project=PROJECT, limit=9)
    assert [read.id for read, _ in found] == [idle.id, worker.id]
    busy = found[1][0]
    assert (busy.slots_busy, busy.slots_total, busy.job) == (3, 16, lease.job)
    assert (busy.state, found[0][0].slots_busy, found[0][0].job) == ("live", 0, None)
    older = catalogue.list_workers(service, project=PROJECT, limit=9, after=found[0][1])
    assert [read.id for read, _ in older] == [worker.id]
