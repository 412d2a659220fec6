"""Race and simplification through the service: `raced` is a job of default effort."""

from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from tests.factories import (
    PROJECT,
    ToyWorker,
    advance_all,
    arm_rows,
    is_active,
    job_row,
    loss_of_two_sites,
    make_service,
    run_until,
    run_until_done,
    submit,
    trial_rows,
    violations,
)
from tests.service.conftest import Done

from dropt.spec.protocol import Lease, Measurement, TrialAssignment
from dropt.storage import events
from dropt.storage.engine import Database
from dropt.storage.trials import TrialRow
from dropt.tuning.configurations import candidate_of
from dropt.tuning.seeds import trial_seed
from dropt.tuning.service import Service
from dropt.tuning.shortlist import ARMS
from dropt.tuning.winners import Winner, entries_of, most_before_comparison, peers_of, trained_of

FIRST, SECOND, IDLE = "layers.0:in", "layers.1:out", "layers.3:out"
DEFAULT: dict[str, Any] = {
    "evidence": {"effort": "default"},
    "search": {"pruner": {"name": "none"}},
}


def winner_of(service: Service, job_id: str, arm: str = "with") -> Winner:
    return Winner.model_validate(arm_rows(service, job_id)[arm].winner)


def told(done: Done, type: str) -> list[dict[str, Any]]:
    with done.service.database.reading() as session:
        found = events.list_after(session, done.job.id, project=PROJECT, limit=9999)
    return [event.data for event in found if event.type == type]


# ---- the race


def test_race_gives_more_seeds_to_those_that_lead(raced: Done) -> None:
    for arm, rounds in (("without", [2, 4, 8]), ("with", [1, 3, 5])):
        of_place = Counter(row.candidate for row in raced.trials(phase="shortlist", arm=arm))
        n = sorted(of_place.values())
        assert (n[-2:], n[-3]) == ([rounds[2]] * 2, rounds[1])
        assert set(n[:-3]) == {rounds[0]}
    assert len(told(raced, "evidence.shortlist")) == 3


def test_seeds_of_the_race_are_shared_by_all_that_run(raced: Done) -> None:
    for row in raced.trials(phase="shortlist"):
        assert row.seed == trial_seed(0, "shortlist", int(row.seed_index))


def test_trainings_of_the_race_are_found_again_by_their_configuration(raced: Done) -> None:
    entries = entries_of(raced.job, raced.trials())
    values = trained_of(raced.trials()).raced
    for arm in ARMS:
        rows = raced.trials(phase="shortlist", arm=arm)
        for place, entry in enumerate(entries[arm]):
            mine = sorted((row for row in rows if row.candidate == place), key=seed_number)
            assert values[arm][entry.configuration.key] == [row.value for row in mine]
            assert all(candidate_of(row).configuration == entry.configuration for row in mine)


def seed_number(row: TrialRow) -> int:
    return int(row.seed_index)


def test_winner_of_without_has_the_best_mean_of_those_that_came_to_the_end(raced: Done) -> None:
    rows = raced.trials(phase="shortlist", arm="without")
    entries = entries_of(raced.job, raced.trials())["without"]
    means = {}
    for place, entry in enumerate(entries):
        fresh = [row.value for row in rows if row.candidate == place and row.value is not None]
        if len(fresh) == 8:
            means[place] = (fmean([*entry.values, *fresh]), fmean(fresh))
    best = min(means, key=lambda place: means[place][0])
    winner = winner_of(raced.service, raced.job.id, "without")
    assert winner.params == entries[best].configuration.params
    assert winner.value == pytest.approx(means[best][1])


def test_peers_hold_the_winner_and_are_told_with_their_seeds(raced: Done) -> None:
    peers = peers_of(raced.job, raced.trials(), "without")
    winner = winner_of(raced.service, raced.job.id, "without")
    (mine,) = (peer for peer in peers if peer.entry.configuration.params == winner.params)
    assert mine.n_seeds == 8
    assert mine.mean == pytest.approx(winner.value)


# ---- the simplification


def test_site_that_does_nothing_is_taken_out_before_the_comparison(raced: Done) -> None:
    winner = winner_of(raced.service, raced.job.id)
    assert set(winner.sites) == {FIRST, SECOND}
    removed = [removal.sites for removal in winner.removals if removal.removed]
    kept = {removal.sites for removal in winner.removals if not removal.removed}
    assert (removed, kept) == ([(IDLE,)], {(FIRST,), (SECOND,)})
    for row in raced.trials(phase="compare", arm="with"):
        assert row.sites == winner.sites
    assert told(raced, "evidence.shortlisted")[0]["removed"] == [[IDLE]]


def test_removals_train_on_eight_seeds_of_their_own(raced: Done) -> None:
    rows = raced.trials(phase="simplify")
    by_sites = Counter(frozenset(row.sites) for row in rows)
    all_three = frozenset({FIRST, SECOND, IDLE})
    assert set(by_sites.values()) == {8}
    assert set(by_sites) == {
        all_three, *(all_three - {one} for one in all_three), *(frozenset([one]) for one in
        (FIRST, SECOND)),
    }  # fmt: skip
    seeds = {trial_seed(0, "simplify", index) for index in range(8)}
    assert {row.seed for row in rows} == seeds
    others = {row.seed for row in raced.trials() if row.phase != "simplify"}
    assert not seeds & others
    assert len({row.number for row in rows}) == len(rows) == 48


def test_value_of_the_winner_is_that_of_what_is_left(raced: Done) -> None:
    winner = winner_of(raced.service, raced.job.id)
    left = [row.value for row in raced.trials(phase="simplify") if row.sites == winner.sites]
    assert winner.value == pytest.approx(fmean(v for v in left if v is not None))


def test_most_trainings_bound_what_was_trained(raced: Done) -> None:
    most = most_before_comparison(raced.job)
    assert most == (42, 48)
    assert len(raced.trials(phase="shortlist")) <= most[0]
    assert len(raced.trials(phase="simplify")) <= most[1]


def test_quick_evidence_takes_nothing_out(done: Done) -> None:
    assert done.trials(phase="simplify") == []
    assert most_before_comparison(done.job) == (20, 0)
    assert winner_of(done.service, done.job.id).removals == ()


class Slowing(ToyWorker):
    """Takes an hour for an epoch once something is to be taken out."""

    def measurement(self, lease: Lease, trial: TrialAssignment, epoch: int) -> Measurement:
        measured = super().measurement(lease, trial, epoch)
        return measured.model_copy(update={"seconds": 3600.0 if lease.step == "simplify" else 0.0})


@pytest.mark.slow
def test_time_that_is_up_ends_the_simplification(service: Service) -> None:
    """What the first round has decided holds; there is no second."""
    worker = Slowing(service, loss=loss_of_two_sites)
    job_id = submit(service, budget={"trials": 8, "device_seconds": 3600.0}, **DEFAULT)
    run_until_done(service, worker)
    assert set(winner_of(service, job_id).sites) == {FIRST, SECOND}
    assert len(trial_rows(service, job_id, phase="simplify")) == 32
    verdict = job_row(service, job_id).verdict
    assert verdict is not None
    assert verdict.seeds == 5
    assert verdict.ablation == ()


# ---- restarts


@pytest.mark.slow
def test_job_that_is_taken_up_at_every_step_ends_the_same(
    raced: Done, sqlite_database: Database, tmp_path: Path
) -> None:
    """A new service after each step knows what the tables say, nothing else."""
    first = make_service(sqlite_database, tmp_path)
    worker = ToyWorker(first, loss=loss_of_two_sites)
    job_id = submit(first, budget={"trials": 8}, **DEFAULT)
    run_until(first, worker, "evidence", job_id=job_id)
    while is_active(first):
        worker.service = make_service(sqlite_database, tmp_path)
        advance_all(worker.service)
        advance_all(worker.service)  # the same step twice
        worker.work_once()
    for phase in ("shortlist", "simplify", "compare", "ablate"):
        assert signature(trial_rows(first, job_id, phase=phase)) == signature(
            raced.trials(phase=phase)
        )
    assert violations(first, job_id) == []


def signature(rows: list[TrialRow]) -> list[Any]:
    return [(row.arm, row.number, row.seed, row.params, row.sites, row.value) for row in rows]


@pytest.mark.slow
def test_diverged_removal_keeps_its_site(service: Service) -> None:
    worker = ToyWorker(service, loss=loss_of_two_sites)
    worker.failing = lambda trial, epoch: "diverged" if is_without_idle(trial) else None
    job_id = submit(service, budget={"trials": 8}, **DEFAULT)
    run_until_done(service, worker)
    winner = winner_of(service, job_id)
    assert IDLE in winner.sites
    kept = {removal.sites: removal for removal in winner.removals}
    assert (kept[(IDLE,)].harm, kept[(IDLE,)].removed) == (None, False)


def is_without_idle(trial: TrialAssignment) -> bool:
    seeds = {trial_seed(0, "simplify", index) for index in range(8)}
    return trial.seed in seeds and IDLE not in trial.sites
