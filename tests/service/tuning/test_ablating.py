from typing import Any

import pytest
from tests.factories import (
    PROJECT,
    ToyWorker,
    job_row,
    loss_of_two_sites,
    run_until_done,
    submit,
    trial_rows,
    verdict_of,
    violations,
)
from tests.service.conftest import Done
from tests.service.tuning.test_winners import DEFAULT, FIRST, IDLE, SECOND

from dropt.spec.protocol import TrialAssignment
from dropt.spec.space import Dropout
from dropt.storage import artifacts
from dropt.storage.trials import TrialRow
from dropt.tuning.ablation import ablation_table, units_to_ablate
from dropt.tuning.comparison import Training
from dropt.tuning.evidence import crossed_interval, crossed_statistics
from dropt.tuning.score_files import read_scores
from dropt.tuning.seeds import trial_seed
from dropt.tuning.service import Service
from dropt.tuning.shortlist import Configuration


def test_each_site_that_is_left_is_ablated_on_seeds_of_the_comparison(raced: Done) -> None:
    rows = raced.trials(phase="ablate")
    n_seeds = min(8, verdict_of(raced.service, raced.job.id).seeds)
    assert {frozenset(row.sites) for row in rows} == {frozenset([FIRST]), frozenset([SECOND])}
    assert {row.seed for row in rows} == {trial_seed(0, "compare", r) for r in range(n_seeds)}
    assert len(rows) == 2 * n_seeds
    with_ = raced.trials(phase="compare", arm="with")[0]
    assert all(row.params == with_.params for row in rows)


def test_ablation_trains_after_the_verdict_and_reads_the_test_split(raced: Done) -> None:
    last_look = max(row.finished_at for row in raced.trials(phase="compare") if row.finished_at)
    assert all(row.created_at >= last_look for row in raced.trials(phase="ablate"))
    leases = [lease for lease in raced.worker.leases if lease.step == "ablate"]
    assert leases
    assert all("test" in lease.score and lease.per_example for lease in leases)


def test_table_says_what_each_site_contributes(raced: Done) -> None:
    """2 points of the loss each; the levels are those of Holm over two rows."""
    table = {row.sites: row for row in verdict_of(raced.service, raced.job.id).ablation}
    assert set(table) == {(FIRST,), (SECOND,)}
    for row in table.values():
        assert row.interval is not None
        assert row.interval[0] < row.effect < row.interval[1]
        assert row.effect == pytest.approx(0.03, abs=0.01)
        assert row.interval[0] > 0
        assert (row.adjusted, row.metric) == ("holm", "nll")
    assert sorted(row.level for row in table.values()) == [0.025, 0.05]


def test_verdict_stands_as_its_look_told_it(raced: Done) -> None:
    verdict = verdict_of(raced.service, raced.job.id)
    assert (verdict.verdict, verdict.provisional) == ("helps", False)
    assert verdict.looks[-1].decision == "helps"
    assert raced.job.state == "succeeded"
    assert violations(raced.service, raced.job.id) == []


def test_quick_evidence_has_no_ablation(done: Done) -> None:
    assert done.trials(phase="ablate") == []
    assert verdict_of(done.service, done.job.id).ablation == ()


def harmful(trial: TrialAssignment, epoch: int) -> float:
    """Two sites are better than one, and none is better than both."""
    return loss_of_two_sites(trial, epoch) + 0.2 * bool(trial.sites)


@pytest.mark.slow
def test_dropout_that_does_not_help_is_not_ablated(service: Service) -> None:
    worker = ToyWorker(service, loss=harmful)
    job_id = submit(service, budget={"trials": 8}, **DEFAULT)
    run_until_done(service, worker)
    assert verdict_of(service, job_id).verdict == "hurts"
    assert len(trial_rows(service, job_id, phase="compare", arm="with")[0].sites) == 2
    assert trial_rows(service, job_id, phase="ablate") == []


@pytest.mark.slow
@pytest.mark.parametrize(("reason", "n_rows"), [("error", 1), ("diverged", 2)])
def test_ablation_that_fails_changes_no_verdict(
    service: Service, reason: Any, n_rows: int
) -> None:
    """A site of which a training fails for good is left out; one that diverges is a result."""

    def failing(trial: TrialAssignment, epoch: int) -> Any:
        is_ablated = trial.seed == trial_seed(0, "compare", 1) and set(trial.sites) == {FIRST}
        return reason if is_ablated else None

    worker = ToyWorker(service, loss=loss_of_two_sites, failing=failing)
    job_id = submit(service, budget={"trials": 8}, **DEFAULT)
    run_until_done(service, worker)
    verdict = verdict_of(service, job_id)
    assert (job_row(service, job_id).state, verdict.verdict) == ("succeeded", "helps")
    assert len(verdict.ablation) == n_rows


def test_single_unit_is_not_ablated_and_of_many_the_highest_rates_are() -> None:
    def placed(n: int) -> Configuration:
        return Configuration({}, {f"s{i}": Dropout(rate=0.05 * (i + 1)) for i in range(n)})

    assert units_to_ablate(placed(1), ()) == ()
    assert units_to_ablate(placed(3), [("s0", "s2")]) == (("s0", "s2"), ("s1",))
    assert units_to_ablate(placed(9), ()) == tuple((f"s{i}",) for i in range(3, 9))


def test_rows_of_the_table_are_crossed_intervals_of_the_paired_scores(raced: Done) -> None:
    """Computed from the artifacts alone."""

    def training(row: TrialRow) -> Training:
        with raced.service.database.reading() as session:
            files = artifacts.of_trial(session, row.id, project=PROJECT)
        return Training(row, read_scores(raced.service.artifacts.path(files["scores:test"])))

    ablated = [training(r) for r in raced.trials(phase="ablate") if set(r.sites) == {FIRST}]
    whole = [training(row) for row in raced.trials(phase="compare", arm="with")][: len(ablated)]
    difference = [
        one.scores.loss.astype(float) - all_on.scores.loss.astype(float)
        for one, all_on in zip(ablated, whole, strict=True)
    ]
    statistics = crossed_statistics(difference)
    (row,) = ablation_table("nll", whole, {(SECOND,): ablated})
    interval = crossed_interval(statistics, 0.05)
    assert interval is not None
    assert row.effect == pytest.approx(statistics.effect)
    assert row.interval == pytest.approx((interval.low, interval.high))
    assert (row.level, row.adjusted, IDLE in row.sites) == (0.05, None, False)
