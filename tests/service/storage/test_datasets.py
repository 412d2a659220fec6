"""Data sets: one name, one digest."""

import pytest
from tests.service.storage.rows import PROJECT, dataset_offer

from dropt.errors import NameTaken, NotFound
from dropt.storage import datasets
from dropt.storage.engine import Database


def test_an_upload_is_read_back(database: Database) -> None:
    with database.writing() as session:
        datasets.insert_uploaded(session, dataset_offer(), 1234, project=PROJECT)
        row = datasets.get(session, "digits", project=PROJECT)
        with pytest.raises(NotFound, match="unknown"):
            datasets.get(session, "unknown", project=PROJECT)
    assert (row.offer, row.kind, row.bytes) == (dataset_offer(), "uploaded", 1234)


def test_the_same_upload_again_changes_nothing(database: Database) -> None:
    with database.writing() as session:
        first = datasets.insert_uploaded(session, dataset_offer(), 1234, project=PROJECT)
        assert datasets.insert_uploaded(session, dataset_offer(), 1234, project=PROJECT) == first


def test_other_bytes_under_the_name_are_refused(database: Database) -> None:
    other = dataset_offer(digest="a" * 64)
    with database.writing() as session:
        datasets.insert_offered(session, dataset_offer(), project=PROJECT)
        with pytest.raises(NameTaken):
            datasets.insert_uploaded(session, other, 1, project=PROJECT)
        with pytest.raises(NameTaken):
            datasets.insert_offered(session, other, project=PROJECT)
        assert datasets.get(session, "digits", project=PROJECT).sha256 == "9" * 64


def test_the_newest_description_of_the_same_bytes_counts(database: Database) -> None:
    described = dataset_offer().model_copy(update={"licence": "CC-BY-4.0"})
    with database.writing() as session:
        datasets.insert_offered(session, dataset_offer(), project=PROJECT)
        datasets.insert_offered(session, described, project=PROJECT)
        assert [row.offer for row in datasets.list_all(session, project=PROJECT)] == [described]
