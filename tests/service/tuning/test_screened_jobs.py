"""Whole jobs on deep models, and with kinds and schedules to choose from."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.factories import (
    PROJECT,
    ToyWorker,
    arm_rows,
    job_row,
    make_service,
    run_until_done,
    submit,
    trial_rows,
    violations,
)
from tests.service.tuning.spaces import make_inspection, make_site

from dropt.jobs.answers import best_of
from dropt.spec.inspection import Site
from dropt.spec.protocol import InspectionReport, Lease, TrialAssignment
from dropt.storage import events
from dropt.storage.engine import Database
from dropt.tuning.screened import screened_numbers
from dropt.tuning.service import Service

USEFUL = range(20, 35)  # of the sites of a deep model; the others do harm
DEEP = {
    "budget": {"trials": 64}, "training": {"epochs": 3}, "search": {"groups": "by_site"},
    "evidence": False,
}  # fmt: skip
ALONE = {"arms": ["with"]}


def stack(n: int = 100) -> tuple[Site, ...]:
    return tuple(make_site(f"layers.{i}:out", depth=i / n) for i in range(n))


def loss_of(trial: TrialAssignment, epoch: int) -> float:
    rates = {name: of.rate for name, of in trial.sites.items()}
    useful = sum(rates.get(f"layers.{i}:out", 0.0) for i in USEFUL) / len(USEFUL)
    harm = (sum(rates.values()) - useful * len(USEFUL)) / 85
    noise = 0.002 * ((trial.seed + len(rates)) % 5 - 2)
    return 0.5 - min(useful, 0.3) + harm + noise + 0.3 / epoch


@dataclass
class DeepWorker(ToyWorker):
    """Finds other sites in the model than the toy worker does."""

    sites: tuple[Site, ...] = field(default_factory=stack)

    def inspect(self, lease: Lease, *, slots: int = 8) -> None:
        found = InspectionReport(result=make_inspection(*self.sites))
        self.send(lease, 1, inspection=found, done=True)


def screened_events(service: Service, job_id: str) -> list[dict[str, object]]:
    with service.database.reading() as session:
        rows = events.list_after(session, job_id, project=PROJECT, after=0, limit=10_000)
    return [row.model_dump() for row in rows if row.type == "search.screened"]


@pytest.mark.slow
def test_a_job_on_a_hundred_sites_ends_with_exact_budgets_and_tells_what_it_dropped(
    service: Service,
) -> None:
    worker = DeepWorker(service, loss=loss_of)
    job_id = submit(service, **DEEP)
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert job.state == "succeeded", job.failure
    assert job.space is not None
    assert violations(service, job_id) == []
    for arm in ("without", "with"):
        assert (arm_rows(service, job_id)[arm].issued, arm_rows(service, job_id)[arm].target) == (
            64, 64,
        )  # fmt: skip
    rows = trial_rows(service, job_id, phase="search", arm="with")
    assert [row.number for row in rows] == list(range(64))
    screened = screened_numbers(job.space, job.spec.search, "with")
    assert len(screened) == 29
    assert {row.state for row in rows if row.number in screened} == {"pruned"}
    assert {row.epoch for row in rows if row.number in screened} == {1}
    assert all(row.state in ("completed", "pruned") for row in rows)
    later = [row.state for row in rows if row.number >= screened.stop]
    assert later.count("pruned") >= 4  # 8; if those that screen were rivals, 1
    seeds = [row.seed for row in rows]
    assert [len(set(seeds[a:b])) for a, b in ((1, 6), (6, 18), (18, 30))] == [1, 1, 1]
    assert len(set(seeds)) == 64 - 29 + 3
    with service.database.reading() as session:
        best = best_of(session, job, top=0)
    assert best.screening is not None
    assert len(best.screening.units) == 11
    harmful = [unit for unit in best.screening.units if unit.reason == "harmful"]
    assert harmful
    assert not any(f"layers.{i}:out" in unit.sites for unit in harmful for i in USEFUL[4:-4])
    searched = {site for group in best.screening.searched for site in group.sites}
    assert all(set(row.sites) <= searched for row in rows if row.number >= screened.stop)
    (event,) = screened_events(service, job_id)
    assert event["data"]["units"] == [  # type: ignore[index]
        unit.model_dump(mode="json") for unit in best.screening.units
    ]


@pytest.mark.slow
def test_a_service_that_restarts_at_every_report_searches_the_same(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """All that a screening has found is read from the tables again."""
    found = []
    for restarts in (False, True):
        service = make_service(sqlite_database, tmp_path)
        worker = DeepWorker(service, loss=loss_of, slots=5, sites=stack(30))
        job_id = submit(service, **DEEP | {"budget": {"trials": 58}, "compare": ALONE})
        if restarts:
            worker.on_report = lambda _, s=service, j=job_id: s.forget(job_row(s, j).id)  # type: ignore[misc]
        run_until_done(service, worker)
        rows = trial_rows(service, job_id, phase="search", arm="with")
        found.append([(row.number, row.seed, row.params, row.rates, row.state) for row in rows])
        assert len(screened_events(service, job_id)) == 1
    assert found[0] == found[1]


@pytest.mark.slow
def test_screening_without_rungs_trains_to_the_end(service: Service) -> None:
    worker = DeepWorker(service, loss=loss_of, sites=stack(8))
    search = {"groups": "by_site", "pruner": {"name": "none"}}
    fields = {"budget": {"trials": 48}, "search": search, "compare": ALONE}
    job_id = submit(service, **DEEP | fields)
    run_until_done(service, worker)
    rows = trial_rows(service, job_id, phase="search", arm="with")
    assert {row.state for row in rows} == {"completed"}
    assert len(screened_events(service, job_id)) == 1


@pytest.mark.slow
def test_kinds_and_schedules_of_a_search_reach_the_worker_and_the_evidence(
    service: Service,
) -> None:
    sites = tuple(
        make_site(name, "conv", kinds=("channel", "element")) for name in ("a:out", "b:out")
    )
    worker = DeepWorker(service, sites=sites)
    search = {
        "sites": [{"match": "*", "kinds": ["channel", "element"]}],
        "schedules": ["constant", "early", "late"],
    }
    job_id = submit(service, budget={"trials": 20}, search=search, training={"epochs": 4})
    run_until_done(service, worker)
    assert job_row(service, job_id).state == "succeeded"
    packs = [lease for lease in worker.leases if lease.kind == "train"]
    assert all(lease.columns["a:out"] == ("channel", "element") for lease in packs)
    given = [one for lease in packs for one in lease.trials] + worker.added
    dropouts = [of for trial in given for of in trial.sites.values()]
    assert {of.kind for of in dropouts} == {"channel", "element"}
    labels = {of.schedule.label for of in dropouts}
    assert {label.split("/")[0] for label in labels} == {"constant", "early", "late"}
    assert labels <= {"constant", "early/1", "early/2", "late/1", "late/2"}
    searched = [row.sites for row in trial_rows(service, job_id, phase="search", arm="with")]
    for row in trial_rows(service, job_id, phase="shortlist", arm="with"):
        assert row.sites in searched
