"""No function of storage reads or changes a row of another project."""

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from sqlalchemy import select
from tests.service.storage.rows import (
    Scene,
    claim,
    dataset_offer,
    measured,
    registration,
    set_scene,
    spec,
)

from dropt.errors import LeaseLost, NotFound
from dropt.spec.keys import new_key
from dropt.spec.protocol import InspectionFailure, ReportAnswer
from dropt.storage import (
    arms,
    artifacts,
    clock,
    datasets,
    deletion,
    events,
    idempotency,
    inspections,
    jobs,
    keys,
    leases,
    measurements,
    mirroring,
    projects,
    trials,
    verdicts,
    webhooks,
    workers,
)
from dropt.storage.engine import Database
from dropt.storage.session import Session
from dropt.storage.tables import metadata

MINE, OTHER = "mine", "other"
BODY = "b" * 64
FAILURE = InspectionFailure(reason="error", detail="no forward")
ANSWER = ReportAnswer(sequence=2, expires_in=30.0)
MODULES = (
    arms, artifacts, clock, datasets, deletion, events, idempotency, inspections, jobs, keys,
    leases, measurements, mirroring, projects, trials, verdicts, webhooks, workers,
)  # fmt: skip
WITHOUT_PROJECT = {  # the database as a whole, and what the service does for all projects
    "clock.now", "clock.epoch_now", "keys.any_exist", "keys.end_at", "keys.find",
    "keys.forget_sessions", "projects.ensure", "projects.lock", "jobs.active", "arms.try_lock",
    "idempotency.forget_old", "mirroring.unmirrored_jobs", "artifacts.forget_unused",
    "artifacts.is_known", "deletion.discarded_studies", "deletion.forget_study",
    "webhooks.claim_due", "webhooks.is_due",
}  # fmt: skip
MAKES_NEW_ROWS = {  # of the project that is named; what they refer to was read from it before
    "arms.insert", "artifacts.attach", "artifacts.record", "datasets.insert_offered",
    "datasets.insert_uploaded", "idempotency.reserve", "inspections.request", "jobs.insert",
    "keys.insert", "leases.open_lease", "measurements.add_many", "measurements.add_rung",
    "trials.insert_many", "verdicts.add_look", "workers.register", "deletion.discard_studies",
    "webhooks.add",
}  # fmt: skip

Call = Callable[[Session, Scene], object]
P: dict[str, Any] = {"project": OTHER}


def anything(request: Mapping[str, Any]) -> bool:
    return True


CALLS: dict[str, Call] = {
    "arms.close": lambda s, x: arms.close(s, x.job.id, "with", **P),
    "arms.issue": lambda s, x: arms.issue(s, x.job.id, "with", 1, **P),
    "arms.list_of": lambda s, x: arms.list_of(s, x.job.id, **P),
    "arms.reopen": lambda s, x: arms.reopen(s, x.job.id, "with", 99, **P),
    "arms.set_study_id": lambda s, x: arms.set_study_id(s, x.job.id, "with", 9, **P),
    "arms.set_winner": lambda s, x: arms.set_winner(s, x.job.id, "with", {}, **P),
    "arms.study_ids": lambda s, x: arms.study_ids(s, **P),
    "artifacts.exists": lambda s, x: artifacts.exists(s, BODY, **P),
    "artifacts.of_trial": lambda s, x: artifacts.of_trial(s, x.ids[0], **P),
    "datasets.get": lambda s, x: datasets.get(s, "digits", **P),
    "datasets.list_all": lambda s, x: datasets.list_all(s, **P),
    "deletion.delete_dataset": lambda s, x: deletion.delete_dataset(s, "digits", **P),
    "deletion.delete_job": lambda s, x: deletion.delete_job(s, x.job.id, **P),
    "events.get": lambda s, x: events.get(s, x.job.id, 1, **P),
    "events.list_after": lambda s, x: events.list_after(s, x.job.id, limit=9, **P),
    "events.record": lambda s, x: events.record(s, x.job.id, "x", **P),
    "idempotency.find": lambda s, x: idempotency.find(s, "/", "k", BODY, **P),
    "idempotency.store": lambda s, x: idempotency.store(s, "/", "k", BODY, 500, {}, 0, **P),
    "inspections.claim": lambda s, x: inspections.claim(s, x.lease, anything, **P),
    "inspections.find": lambda s, x: inspections.find(s, "waits", **P),
    "inspections.finish": lambda s, x: inspections.finish(
        s, inspection_of(s), x.lease, FAILURE, **P
    ),
    "inspections.list_free": lambda s, x: inspections.list_free(s, **P),
    "inspections.get": lambda s, x: inspections.get(s, inspection_of(s), **P),
    "inspections.requeue": lambda s, x: inspections.requeue(s, inspection_of(s), x.lease, **P),
    "jobs.count": lambda s, x: jobs.count(s, state=("queued",), **P),
    "jobs.get": lambda s, x: jobs.get(s, x.job.id, **P),
    "jobs.list_page": lambda s, x: jobs.list_page(s, limit=9, **P),
    "jobs.lock": lambda s, x: jobs.lock(s, x.job.id, **P),
    "jobs.move": lambda s, x: jobs.move(s, x.job.id, from_=("queued",), name="x", **P),
    "jobs.unfinished_on": lambda s, x: jobs.unfinished_on(s, "digits", **P),
    "jobs.update": lambda s, x: jobs.update(s, x.job.id, name="x", **P),
    "jobs.open_specs": lambda s, x: jobs.open_specs(s, **P),
    "keys.is_live": lambda s, x: keys.is_live(s, key_of(s), **P),
    "keys.list_page": lambda s, x: keys.list_page(s, limit=9, **P),
    "keys.note_use": lambda s, x: keys.note_use(s, key_of(s), **P),
    "keys.revoke": lambda s, x: keys.revoke(s, key_of(s), **P),
    "leases.close": lambda s, x: leases.close(s, x.lease, **P),
    "leases.discard": lambda s, x: leases.discard(s, x.lease, **P),
    "leases.expire": lambda s, x: leases.expire(s, x.worker, **P),
    "leases.get": lambda s, x: leases.get(s, x.lease, **P),
    "leases.given_trials": lambda s, x: leases.given_trials(s, x.lease, **P),
    "leases.held_trials": lambda s, x: leases.held_trials(s, x.lease, **P),
    "leases.hold": lambda s, x: leases.hold(s, [(x.ids[0], 1)], **P),
    "leases.list_open": lambda s, x: leases.list_open(s, worker_id=x.worker, **P),
    "leases.losers": lambda s, x: leases.losers(s, [(x.ids[0], 2)], **P),
    "leases.renew": lambda s, x: leases.renew(s, [x.lease], x.worker, **P),
    "leases.store_answer": lambda s, x: leases.store_answer(s, x.lease, 1, BODY, ANSWER, **P),
    "measurements.consumed": lambda s, x: measurements.consumed(s, x.job.id, **P),
    "measurements.curve": lambda s, x: measurements.curve(s, x.ids[0], **P),
    "measurements.rung_scores": lambda s, x: measurements.rung_scores(s, x.job.id, "with", 9, **P),
    "measurements.rungs_of": lambda s, x: measurements.rungs_of(s, x.ids, **P),
    "measurements.rung_values": lambda s, x: measurements.rung_values(s, x.job.id, "with", 9, **P),
    "trials.cancel_open": lambda s, x: trials.cancel_open(s, x.job.id, **P),
    "trials.claim": lambda s, x: trials.claim(
        s, x.lease, x.worker, x.job.id, "search", limit=9, **P
    ),
    "trials.count_failed": lambda s, x: trials.count_failed(s, x.job.id, **P),
    "trials.count_open": lambda s, x: trials.count_open(s, x.job.id, **P),
    "trials.get_many": lambda s, x: trials.get_many(s, x.ids, **P),
    "trials.has_waiting": lambda s, x: trials.has_waiting(s, x.job.id, "search", **P),
    "trials.counts": lambda s, x: trials.counts(s, x.job.id, **P),
    "trials.end_lost": lambda s, x: trials.end_lost(s, x.job.id, **P),
    "trials.finish": lambda s, x: trials.finish(s, x.ids[0], 1, state="failed", **P),
    "trials.get": lambda s, x: trials.get(s, x.ids[0], **P),
    "trials.list_of": lambda s, x: trials.list_of(s, x.job.id, **P),
    "trials.list_page": lambda s, x: trials.list_page(s, x.job.id, limit=9, **P),
    "trials.request_stop": lambda s, x: trials.request_stop(s, x.ids, **P),
    "trials.requeue": lambda s, x: trials.requeue(s, x.ids, **P),
    "mirroring.set_mirrored": lambda s, x: mirroring.set_mirrored(s, x.ids[0], 1, "failed", **P),
    "trials.supersede": lambda s, x: trials.supersede(s, x.job.id, ["search"], **P),
    "mirroring.unmirrored": lambda s, x: mirroring.unmirrored(s, x.job.id, 9, **P),
    "verdicts.list_looks": lambda s, x: verdicts.list_looks(s, x.job.id, **P),
    "webhooks.list_of": lambda s, x: webhooks.list_of(s, x.job.id, **P),
    "webhooks.set_delivered": lambda s, x: webhooks.set_delivered(s, webhook_of(s), **P),
    "webhooks.set_failed": lambda s, x: (
        webhooks.set_failed(s, webhook_of(s), problem="x", retry_in_s=1.0, **P) == "failed"
    ),
    "workers.get": lambda s, x: workers.get(s, x.worker, **P),
    "workers.is_draining": lambda s, x: workers.is_draining(s, x.worker, **P),
    "workers.list_page": lambda s, x: workers.list_page(s, limit=9, **P),
    "workers.losses": lambda s, x: workers.losses(s, **P),
    "workers.named": lambda s, x: workers.named(s, "w", **P),
    "workers.offers": lambda s, x: workers.offers(s, **P),
    "workers.retire": lambda s, x: workers.retire(s, x.worker, **P),
    "workers.touch": lambda s, x: workers.touch(s, x.worker, **P),
}
NOTHING: tuple[object, ...] = (
    None, False, 0, [], {}, set(), workers.Catalogue(models={}, datasets={}),
    leases.Given(held=[], lost=[]),
)  # fmt: skip


def inspection_of(session: Session) -> str:
    (id,) = session.scalars(select(metadata.tables["inspection"].c.id)).all()
    return str(id)


def webhook_of(session: Session) -> str:
    (id,) = session.scalars(select(metadata.tables["webhook"].c.id)).all()
    return str(id)


def key_of(session: Session) -> str:
    (id,) = session.scalars(select(metadata.tables["api_key"].c.id)).all()
    return str(id)


def furnish(session: Session) -> Scene:
    """A row of `mine` in every table, so that every filter has something to hide."""
    for name in (MINE, OTHER):
        projects.ensure(session, name)
    scene = set_scene(session, project=MINE)
    first, *_ = claim(session, scene)
    measurements.add_many(session, [measured(first.id, 9)], project=MINE)
    measurements.add_rung(
        session, first.id, 9, project=MINE, job_id=scene.job.id, arm="with", value=0.5,
        decision="go_on",
    )  # fmt: skip
    events.record(session, scene.job.id, "x", project=MINE)
    webhooks.add(session, scene.job.id, 1, project=MINE)
    deletion.discard_studies(session, ["old/with"], project=MINE)
    keys.insert(session, new_key(), project=MINE, name="x", scopes=["admin"])
    artifacts.record(session, BODY, 1, project=MINE)
    artifacts.attach(session, first.id, "scores:test", BODY, project=MINE)
    verdicts.add_look(session, scene.job.id, 1, 1, "go_on", {}, project=MINE)
    idempotency.reserve(session, "/", "k", BODY, project=MINE)
    idempotency.store(session, "/", "k", BODY, 200, {}, 0, project=MINE)
    inspections.request(session, "waits", {}, project=MINE)
    inspections.claim(session, scene.lease, anything, project=MINE)
    return scene


def answer_of(call: Call, session: Session, scene: Scene) -> object:
    """What the call returns, None when it finds nothing."""
    try:
        return call(session, scene)
    except (NotFound, LeaseLost):
        return None


def dump(session: Session) -> dict[str, list[Any]]:
    """Every row of every table, as it is."""
    return {
        name: list(session.execute(select(table).order_by(*table.primary_key)))
        for name, table in metadata.tables.items()
    }


def test_another_project_sees_and_changes_nothing(database: Database) -> None:
    with database.writing() as session:
        scene = furnish(session)
        before = dump(session)
        assert all(before.values())
        for name, call in CALLS.items():
            assert answer_of(call, session, scene) in NOTHING, name
            assert dump(session) == before, name


def test_names_and_keys_belong_to_their_project(database: Database) -> None:
    with database.writing() as session:
        furnish(session)
        other = dataset_offer(digest="a" * 64)
        assert datasets.insert_uploaded(session, other, 1, project=OTHER).project == OTHER
        assert artifacts.record(session, BODY, 1, project=OTHER)
        assert idempotency.reserve(session, "/", "k", "c" * 64, project=OTHER) is None
        new = inspections.request(session, "waits", {}, project=OTHER)
        assert inspections.get(session, new, project=OTHER).state == "waiting"
        workers.register(session, registration(digest="a" * 64), project=OTHER)
        jobs.insert(session, spec(), project=OTHER, name="x", labels={}, priority=0)
        assert len(jobs.list_page(session, project=OTHER, limit=9)) == 1
        assert len(jobs.active(session)) == 2


def functions_of(module: ModuleType) -> dict[str, inspect.Signature]:
    """The functions of a module that speak to the database, by name."""
    short = module.__name__.rpartition(".")[2]
    return {
        f"{short}.{name}": inspect.signature(function)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


def test_every_function_names_its_project_and_is_tested_here() -> None:
    found = {name: sig for module in MODULES for name, sig in functions_of(module).items()}
    without = {name for name, signature in found.items() if "project" not in signature.parameters}
    assert without == WITHOUT_PROJECT
    assert found.keys() - WITHOUT_PROJECT - MAKES_NEW_ROWS == CALLS.keys()
