"""Artifacts: noted once, referred to by trials."""

import logging

import pytest
from tests.service.storage.rows import PROJECT, set_scene

from dropt.storage import artifacts
from dropt.storage.engine import Database


def test_an_artifact_is_noted_once(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dropt.storage.artifacts")
    with database.writing() as session:
        assert not artifacts.exists(session, "a" * 64, project=PROJECT)
        assert artifacts.record(session, "a" * 64, 5 * 2**31, project=PROJECT)
        assert not artifacts.record(session, "a" * 64, 5 * 2**31, project=PROJECT)
        assert artifacts.exists(session, "a" * 64, project=PROJECT)
    assert caplog.messages == ["artifact.recorded"] * 2


def test_what_is_attached_first_in_a_role_stays(database: Database) -> None:
    with database.writing() as session:
        id = set_scene(session).ids[0]
        for role, letter in (("scores:test", "a"), ("scores:test", "b"), ("weights", "c")):
            artifacts.attach(session, id, role, letter * 64, project=PROJECT)
        attached = artifacts.of_trial(session, id, project=PROJECT)
    assert attached == {"scores:test": "a" * 64, "weights": "c" * 64}
