"""Every cell of the table of states and verbs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import update
from tests.factories import PROJECT, ToyWorker, job_row, refused, submit

from dropt.errors import DroptError
from dropt.jobs import cloning, deleting, extending, verbs
from dropt.spec.changes import Extension
from dropt.spec.job import JobCreate
from dropt.spec.results import Failure, JobRead, StopRequest
from dropt.storage import tables
from dropt.tuning.service import Service

STATES = (
    "queued", "running", "paused", "stopping", "cancelling", "succeeded", "failed", "cancelled",
)  # fmt: skip
RETRYABLE, STOPPED = "failed, retryable", "succeeded, stopped"
TABLE: dict[str, dict[str, str]] = {
    "pause": {
        "queued": "paused", "running": "paused", "paused": "same", "stopping": "409",
        "cancelling": "409", "succeeded": "409", "failed": "409", "cancelled": "409",
    },
    "resume": {
        "queued": "same", "running": "same", "paused": "running", "stopping": "409",
        "cancelling": "409", "succeeded": "409", "failed": "409", RETRYABLE: "running",
        "cancelled": "409",
    },
    "stop": {
        "queued": "409", "running": "stopping", "paused": "stopping", "stopping": "same",
        "cancelling": "409", "succeeded": "409", STOPPED: "same", "failed": "409",
        "cancelled": "409",
    },
    "cancel": {
        "queued": "cancelled", "running": "cancelling", "paused": "cancelled",
        "stopping": "cancelling", "cancelling": "same", "succeeded": "409", "failed": "409",
        "cancelled": "same",
    },
    "extend": {
        "queued": "queued", "running": "running", "paused": "paused", "stopping": "409",
        "cancelling": "409", "succeeded": "running", "failed": "409", RETRYABLE: "running",
        "cancelled": "409",
    },
    "clone": dict.fromkeys(STATES, "queued"),
    "delete": {
        "queued": "204", "running": "force", "paused": "force", "stopping": "force",
        "cancelling": "force", "succeeded": "204", "failed": "204", "cancelled": "204",
    },
}  # fmt: skip
CELLS = [(verb, state, cell) for verb, row in TABLE.items() for state, cell in row.items()]

Verb = Callable[[Service, str], tuple[JobRead, bool]]


def clone(service: Service, job_id: str) -> tuple[JobRead, bool]:
    body, origin = cloning.body_of_clone(service, job_id, {}, project=PROJECT)
    asked = JobCreate.model_validate(body)
    return verbs.submit(service, asked, project=PROJECT, origin=origin)[0], True


def extend(service: Service, job_id: str) -> tuple[JobRead, bool]:
    return extending.extend(service, job_id, Extension(trials=2), project=PROJECT)[0], True


VERBS: dict[str, Verb] = {
    "pause": lambda s, job: verbs.pause(s, job, project=PROJECT),
    "resume": lambda s, job: verbs.resume(s, job, project=PROJECT),
    "stop": lambda s, job: verbs.stop(s, job, project=PROJECT),
    "cancel": lambda s, job: verbs.cancel(s, job, project=PROJECT),
    "clone": clone,
    "extend": extend,
}


def in_state(service: Service, state: str) -> str:
    """A job that is in this state, as far as its row says."""
    ToyWorker(service)
    job_id = submit(service)
    values: dict[str, Any] = {"state": state.partition(",")[0]}
    if state != "queued":
        values |= {"phase": "search", "started_at": job_row(service, job_id).created_at}
    if state == RETRYABLE:
        failure = Failure(reason="max_failed_trials", message="too many", retryable=True)
        values["failure"] = failure
    if state == STOPPED:
        values["stop"] = StopRequest(phase="search", evidence=True)
    with service.database.writing() as session:
        session.execute(update(tables.job).values(values))
    return job_id


@pytest.mark.parametrize(("verb", "state", "cell"), CELLS, ids=[f"{v} {s}" for v, s, _ in CELLS])
def test_verb_does_what_the_table_says(service: Service, verb: str, state: str, cell: str) -> None:
    job_id = in_state(service, state)
    before = job_row(service, job_id)
    if verb == "delete":
        check_delete(service, job_id, cell)
        return
    if cell == "409":
        error = refused(lambda: VERBS[verb](service, job_id))
        assert (error.status, error.members["state"]) == (409, before.state)
        assert job_row(service, job_id) == before
        return
    read, changed = VERBS[verb](service, job_id)
    if cell == "same":
        assert (read.state, changed) == (before.state, False)
        assert job_row(service, job_id) == before
    else:
        assert (read.state, changed) == (cell, True)


def check_delete(service: Service, job_id: str, cell: str) -> None:
    delete = partial(deleting.delete_job, service, job_id, project=PROJECT)
    if cell == "force":
        assert refused(delete).code == "still-running"
        delete(force=True)
    else:
        delete()
    with pytest.raises(DroptError, match="No job"):
        job_row(service, job_id)


def test_table_has_every_state_of_every_verb() -> None:
    for row in TABLE.values():
        assert {state.partition(",")[0] for state in row} == set(STATES)
