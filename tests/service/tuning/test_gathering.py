import math
from statistics import fmean
from typing import Any

import pytest
from tests.factories import (
    PROJECT,
    ToyWorker,
    advance_all,
    arm_rows,
    job_row,
    loss_of,
    refused,
    run_until,
    run_until_done,
    score_file,
    submit,
    trial_rows,
    violations,
)
from tests.service.conftest import Done

from dropt.jobs import lists
from dropt.spec.job import METRICS_OF
from dropt.spec.protocol import Finished, Lease, Reason, TrialAssignment
from dropt.spec.space import Dropout
from dropt.storage import artifacts, events, verdicts
from dropt.storage.trials import TrialRow
from dropt.tuning import gathering
from dropt.tuning.seeds import trial_seed
from dropt.tuning.service import Service
from dropt.tuning.shortlist import FLAT
from dropt.tuning.winners import Winner


def winners(service: Service, job_id: str) -> dict[str, Winner]:
    return {
        arm: Winner.model_validate(row.winner)
        for arm, row in arm_rows(service, job_id).items()
        if row.winner is not None
    }


def by_seed(rows: list[TrialRow]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for row in rows:
        found.setdefault(row.seed, set()).add(row.arm)
    return found


# ---- seeds and splits


def test_seeds_of_the_evidence_are_never_used_in_the_search(done: Done) -> None:
    seeds = {
        phase: {row.seed for row in done.trials(phase=phase)}
        for phase in ("search", "shortlist", "compare")
    }
    assert len(seeds["search"]) == 16
    assert not seeds["search"] & (seeds["shortlist"] | seeds["compare"])
    assert not seeds["shortlist"] & seeds["compare"]


def test_arms_share_every_seed_of_the_evidence(done: Done) -> None:
    for phase, arms in (("shortlist", {"without", "with"}), ("compare", set(done_arms(done)))):
        assert all(of == arms for of in by_seed(done.trials(phase=phase)).values())
    compared = done.trials(phase="compare", arm="with")
    assert [row.seed for row in compared] == [
        trial_seed(0, "compare", index) for index in range(len(compared))
    ]


def done_arms(done: Done) -> tuple[str, ...]:
    return done.job.spec.compare.arms


def test_test_split_is_unread_before_the_comparison(done: Done) -> None:
    trained = [lease for lease in done.worker.leases if lease.kind == "train"]
    assert {lease.step for lease in trained} == {"search", "shortlist", "compare"}
    for lease in trained:
        reads_test = "test" in lease.score
        assert (reads_test, lease.per_example) == ((lease.step == "compare",) * 2)
        assert bool(lease.rungs) == (lease.step == "search")
    steps = [str(lease.step) for lease in trained]
    assert steps == sorted(steps, key=["search", "shortlist", "compare"].index)
    with_test = [row for row in done.trials() if "test" in row.values]
    assert {row.phase for row in with_test} == {"compare"}


def test_quick_evidence_looks_at_5_and_8_seeds(service: Service) -> None:
    worker = ToyWorker(service, loss=undecided)
    job_id = submit(service, objective={"min_effect": 0.001})
    run_until_done(service, worker)
    verdict = job_row(service, job_id).verdict
    assert verdict is not None
    assert [(look.look, look.seeds, look.level) for look in verdict.looks] == [
        (1, 5, 0.0314), (2, 8, 0.0278),
    ]  # fmt: skip
    assert [look.decision for look in verdict.looks] == ["go_on", "undecided"]
    assert (verdict.verdict, verdict.reason) == ("undecided", "seed_budget")
    assert len(trial_rows(service, job_id, phase="compare")) == 3 * 8
    with service.database.reading() as session:
        looks = verdicts.list_looks(session, job_id, project=PROJECT)
    assert [(look.attempt, look.look, look.decision) for look in looks] == [
        (1, 1, "go_on"), (1, 2, "undecided"),
    ]  # fmt: skip


def undecided(trial: TrialAssignment, epoch: int) -> float:
    """Seeds differ more than the arms do."""
    spread = trial.seed % 1000 / 1000 - 0.5
    return 0.5 + 0.02 * (spread if trial.sites else -spread) + 0.1 / epoch


# ---- the shortlist


def test_shortlist_holds_the_best_and_the_exchanged_configurations(done: Done) -> None:
    plan = FLAT
    for arm in ("without", "with"):
        rows = done.trials(phase="shortlist", arm=arm)
        places = {row.candidate for row in rows}
        assert len(rows) == len(places) * plan.rounds["with"][0].n_seeds
        completed = done.trials(phase="search", arm=arm, states=["completed"])
        n_best = min(plan.n_best, len(completed))
        assert n_best <= len(places) <= n_best + plan.n_exchanged
        best = min(completed, key=lambda row: row.value or math.inf)
        assert (rows[0].params, rows[0].sites) == (best.params, best.sites)
    assert all(row.sites == {} for row in done.trials(phase="shortlist", arm="without"))


def test_winner_has_the_best_mean_of_its_searched_and_fresh_values(done: Done) -> None:
    for arm in ("without", "with"):
        winner = winners(done.service, done.job.id)[arm]
        rows = done.trials(phase="shortlist", arm=arm)
        searched = done.trials(phase="search", arm=arm, states=["completed"])
        means: dict[int, float] = {}
        for place in {row.candidate or 0 for row in rows}:
            mine = [row for row in rows if row.candidate == place]
            same = [
                row.value
                for row in searched
                if (row.params, row.sites) == (mine[0].params, mine[0].sites)
            ]
            means[place] = fmean([*same, *(row.value for row in mine)])  # type: ignore[list-item]
        place = min(means, key=lambda place: means[place])
        chosen = next(row for row in rows if row.candidate == place)
        assert winner.params == chosen.params.model_dump()
        assert winner.sites == chosen.sites


def test_comparison_trains_the_winners_and_the_textbook(done: Done) -> None:
    won = winners(done.service, done.job.id)
    for arm in ("without", "with", "textbook"):
        for row in done.trials(phase="compare", arm=arm):
            assert row.params.model_dump() == won[arm].params
            assert row.sites == won[arm].sites
            assert row.epochs == 3
    assert won["textbook"].params == won["without"].params
    assert won["textbook"].sites == dict.fromkeys(
        ("layers.0:in", "layers.1:out", "layers.3:out"), Dropout(rate=0.2)
    )
    assert won["without"].sites == {}


def test_smallest_effect_of_a_loss_is_one_percent_of_without(done: Done) -> None:
    without = winners(done.service, done.job.id)["without"]
    assert done.job.min_effect == pytest.approx(0.01 * without.value)


@pytest.mark.parametrize(
    ("objective", "expected"), [({"metric": "accuracy"}, 0.005), ({"min_effect": 0.02}, 0.02)]
)
def test_smallest_effect_may_be_set_and_is_half_a_point_of_accuracy(
    service: Service, objective: dict[str, Any], expected: float
) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, objective=objective)
    run_until_done(service, worker)
    assert job_row(service, job_id).min_effect == expected


def test_maximised_metric_picks_the_largest_values(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, objective={"metric": "accuracy"}, search={"pruner": {"name": "none"}})
    run_until_done(service, worker)
    for arm in ("without", "with"):
        completed = trial_rows(service, job_id, phase="search", arm=arm, states=["completed"])
        best = max(completed, key=lambda row: row.value or 0.0)
        first = trial_rows(service, job_id, phase="shortlist", arm=arm)[0]
        assert (first.params, first.sites) == (best.params, best.sites)


# ---- trainings that end badly


def test_training_of_the_evidence_that_fails_for_good_fails_the_job(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "evidence", job_id=job_id)
    worker.failing = lambda trial, epoch: "error"
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert job.state == "failed"
    assert job.failure is not None
    assert (job.failure.reason, "as the test wants it" in job.failure.message) == ("error", True)
    assert violations(service, job_id) == []


def test_error_that_passes_changes_no_seed(service: Service) -> None:
    def once(trial: TrialAssignment, epoch: int) -> Reason | None:
        return "error" if trial.attempt == 1 and trial.number == 0 else None

    worker = ToyWorker(service, failing=once)
    job_id = submit(service)
    run_until_done(service, worker)
    assert job_row(service, job_id).state == "succeeded"
    rows = trial_rows(service, job_id, phase="compare")
    assert {row.seed for row in rows} == {trial_seed(0, "compare", r) for r in range(5)}
    assert {row.attempt for row in rows if row.number == 0} == {2}


def test_arm_whose_fresh_seeds_all_diverge_still_has_a_winner(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "evidence", job_id=job_id)
    worker.failing = lambda trial, epoch: "diverged" if trial.arm == "with" else None
    run_until_done(service, worker)
    assert job_row(service, job_id).state == "succeeded"
    best = min(row.value for row in trial_rows(service, job_id, arm="with", phase="search",
                                               states=["completed"]) if row.value)  # fmt: skip
    assert winners(service, job_id)["with"].value == best


def test_training_that_diverges_in_the_comparison_scores_as_a_constant(service: Service) -> None:
    """As a worker says it: failed, without scores."""
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "evidence", job_id=job_id)
    seed = trial_seed(0, "compare", 2)
    worker.failing = lambda trial, epoch: (
        "diverged" if (trial.arm, trial.seed) == ("with", seed) else None
    )
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert job.state == "succeeded"
    assert job.verdict is not None
    assert "unstable_seeds" in job.verdict.cautions
    prior = 25 / 242  # of the rarer class: 24 of 240, Laplace
    entropy = -(0.1 * math.log(prior) + 0.9 * math.log(1 - prior))
    pair = next(pair for pair in job.verdict.pairs if pair.seed == seed)
    assert pair.scores["with"] == pytest.approx(entropy, abs=1e-6)
    assert all(
        other.scores["with"] != pair.scores["with"] for other in job.verdict.pairs if other != pair
    )


def test_comparison_of_which_every_training_diverges_fails_the_job(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "evidence", job_id=job_id)
    worker.failing = lambda trial, epoch: "diverged"
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert job.failure is not None
    assert (job.state, job.failure.reason) == ("failed", "data")
    assert "every training diverged" in job.failure.message


class Forgetful(ToyWorker):
    """Reports the end of one comparison without its scores."""

    def finished(
        self, lease: Lease, trial: TrialAssignment, epoch: int, *, pruned: bool = False
    ) -> Finished:
        end = super().finished(lease, trial, epoch, pruned=pruned)
        return end.model_copy(update={"scores": {}}) if trial.number == 1 else end


class Mixed(ToyWorker):
    """Scores one training on fewer rows than the others."""

    def upload(self, lease: Lease, trial: TrialAssignment) -> str:
        if trial.number != 1:
            return super().upload(lease, trial)
        import numpy as np

        return self.put(score_file(np.full(self.n_test - 1, 0.4)))


@pytest.mark.parametrize(
    ("kind", "said"), [(Forgetful, "has no scores"), (Mixed, "on different rows")]
)
def test_scores_that_do_not_pair_fail_the_job(
    service: Service, kind: type[ToyWorker], said: str
) -> None:
    worker = kind(service)
    job_id = submit(service)
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert job.failure is not None
    assert (job.state, job.failure.reason) == ("failed", "data")
    assert said in job.failure.message


def test_scores_that_vanished_from_the_disk_fail_the_job(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "evidence", job_id=job_id)
    while not [row for row in trial_rows(service, job_id, phase="compare") if row.value]:
        advance_all(service)
        worker.work_once()
    row = trial_rows(service, job_id, phase="compare", states=["completed"])[0]
    with service.database.reading() as session:
        (digest,) = artifacts.of_trial(session, row.id, project=PROJECT).values()
    service.artifacts.path(digest).unlink()
    run_until_done(service, worker, most=20)
    assert job_row(service, job_id).state == "failed"


# ---- crashes between two steps


@pytest.mark.parametrize("at", ["_train_seeds", "finish"])
def test_service_that_stops_after_a_look_takes_no_look_twice(
    service: Service, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The look is stored, the next seeds or the end of the job are not."""
    real: Any = getattr(gathering, at)

    def stop_after_a_look(service: Service, *more: Any) -> None:
        with service.database.reading() as session:
            looks = verdicts.list_looks(session, job_id, project=PROJECT)
        if looks and at not in stopped:
            stopped.append(at)
            raise KeyboardInterrupt
        real(service, *more)

    stopped: list[str] = []
    worker = ToyWorker(service, loss=undecided)
    job_id = submit(service, objective={"min_effect": 0.001})
    monkeypatch.setattr(gathering, at, stop_after_a_look)
    with pytest.raises(KeyboardInterrupt):
        run_until_done(service, worker)
    service.forget(job_row(service, job_id).id)
    run_until_done(service, worker)
    verdict = job_row(service, job_id).verdict
    assert verdict is not None
    assert [look.look for look in verdict.looks] == [1, 2]
    assert len(trial_rows(service, job_id, phase="compare")) == 24
    assert violations(service, job_id) == []


def test_seeds_are_trained_once_though_two_services_begin_them(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    run_until(service, worker, "evidence", job_id=job_id)
    stale = job_row(service, job_id)
    gathering.gather(service, stale)
    n = len(trial_rows(service, job_id, phase="shortlist"))
    rows = trial_rows(service, job_id, phase="search")
    gathering._select(service, stale, rows, may_simplify=True)  # as a replica that read before
    assert len(trial_rows(service, job_id, phase="shortlist")) == n


def test_history_tells_the_evidence(done: Done) -> None:
    with done.service.database.reading() as session:
        told = events.list_after(session, done.job.id, project=PROJECT, limit=9999)
    types = [event.type for event in told]
    for type in ("evidence.shortlist", "evidence.shortlisted", "evidence.compare"):
        assert types.count(type) == 1
    assert types[-1] == "job.finished"
    assert violations(done.service, done.job.id) == []


# ---- regression


def test_regression_is_tuned_compared_and_judged_by_its_squared_error(service: Service) -> None:
    worker = ToyWorker(service, loss=loss_of)
    job_id = submit(service, dataset="houses")
    run_until_done(service, worker)
    job = job_row(service, job_id)
    assert job.verdict is not None
    assert (job.spec.objective.metric, job.spec.training.loss) == ("mse", "mse")
    assert METRICS_OF["regression"] == ("mse",)
    assert (job.state, job.verdict.verdict, job.verdict.metric) == ("succeeded", "helps", "mse")
    assert [one.name for one in job.verdict.secondary] == ["textbook"]


def test_refusals_name_what_is_refused(service: Service) -> None:
    ToyWorker(service)
    error = refused(lambda: submit(service, dataset="houses", objective={"metric": "nll"}))
    assert [field.code for field in error.errors] == ["unknown-metric"]


def test_each_verdict_is_told_once(done: Done) -> None:
    events = lists.events(done.service, done.job.id, project=done.job.project, limit=500)
    told = [event.data for event in events if event.type == "verdict.updated"]
    assert done.job.verdict is not None
    assert [one["seeds"] for one in told] == [look.seeds for look in done.job.verdict.looks]
    assert [one["provisional"] for one in told] == [True] * (len(told) - 1) + [False]
