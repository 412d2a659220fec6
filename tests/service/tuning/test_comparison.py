"""The verdict, computed again from the artifacts with numpy and scipy alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from scipy import stats
from tests.factories import (
    PROJECT,
    ToyWorker,
    job_row,
    run_until_done,
    score_file,
    submit,
)
from tests.service.conftest import Done

from dropt.spec.protocol import Lease, TrialAssignment
from dropt.spec.results import LookRead, VerdictRead
from dropt.storage import artifacts
from dropt.tuning.comparison import Evidence, Training, look_at, untested
from dropt.tuning.looks import plan_looks
from dropt.tuning.score_files import read_scores
from dropt.tuning.service import Service

Floats = npt.NDArray[np.float64]
LEVELS = {5: 0.0314, 8: 0.0278}  # of effort quick (03, section 5)


def paths_of(done: Done, arm: str) -> list[Path]:
    """The artifacts of the comparison of an arm, by seed index."""
    found = []
    with done.service.database.reading() as session:
        for row in done.trials(phase="compare", arm=arm):
            digests = artifacts.of_trial(session, row.id, project=PROJECT)
            found.append(done.service.artifacts.path(digests["scores:test"]))
    return found


def losses(done: Done, arm: str) -> Floats:
    files = [safetensors.numpy.load(path.read_bytes()) for path in paths_of(done, arm)]
    return np.stack([file["loss"].astype(np.float64) for file in files])


class Anova:
    """Two-way analysis of variance of D [R, N] by its textbook sums, with the crossed interval."""

    def __init__(self, d: Floats) -> None:
        r, n = d.shape
        self.effect = d.mean()
        self.rows, columns = d.mean(axis=1), d.mean(axis=0)
        self.ms_a = n * ((self.rows - self.effect) ** 2).sum() / (r - 1)
        self.ms_b = r * ((columns - self.effect) ** 2).sum() / (n - 1)
        residual = d - self.rows[:, None] - columns[None, :] + self.effect
        self.ms_e = (residual**2).sum() / ((r - 1) * (n - 1))
        self.q = max(self.ms_a + self.ms_b - self.ms_e, self.ms_a, self.ms_b)
        self.se = np.sqrt(self.q / (r * n))
        self.df = self.q**2 / (
            self.ms_a**2 / (r - 1) + self.ms_b**2 / (n - 1) + self.ms_e**2 / ((r - 1) * (n - 1))
        )
        self.r, self.n = r, n

    def interval(self, level: float) -> tuple[float, float]:
        half = stats.t.ppf(1 - level / 2, self.df) * self.se
        return self.effect - half, self.effect + half

    @property
    def p(self) -> float:
        return float(2 * stats.t.sf(abs(self.effect) / self.se, self.df))


@pytest.fixture
def verdict(done: Done) -> VerdictRead:
    assert done.job.verdict is not None
    return done.job.verdict


@pytest.fixture
def anova(done: Done) -> Anova:
    return Anova(losses(done, "without") - losses(done, "with"))  # a lower loss is better


def test_effect_and_interval_are_those_of_the_artifacts(
    verdict: VerdictRead, anova: Anova
) -> None:
    assert (verdict.seeds, verdict.examples) == (anova.r, anova.n)
    assert verdict.effect == pytest.approx(anova.effect, rel=1e-10)
    assert verdict.interval == pytest.approx(anova.interval(LEVELS[anova.r]), rel=1e-8)
    assert (verdict.level, verdict.look) == (LEVELS[anova.r], 1)
    assert verdict.df == pytest.approx(anova.df, rel=1e-8)
    assert verdict.seeds_better == int((anova.rows > 0).sum())
    assert verdict.variance == pytest.approx(
        {"seed": anova.ms_a / anova.n, "example": anova.ms_b / anova.r, "residual": anova.ms_e}
    )
    one_sided = stats.t.ppf(0.975, anova.r - 1) * np.sqrt(anova.ms_a / anova.n / anova.r)
    assert verdict.this_split is not None
    assert verdict.this_split.interval == pytest.approx(
        (anova.effect - one_sided, anova.effect + one_sided), rel=1e-8
    )


def test_word_follows_from_the_interval(verdict: VerdictRead, anova: Anova) -> None:
    low, _ = anova.interval(LEVELS[anova.r])
    assert verdict.min_effect is not None
    assert low > verdict.min_effect
    assert (verdict.verdict, verdict.size) == ("helps", "at_least_min_effect")
    assert not verdict.provisional


def test_arms_and_pairs_hold_the_means_of_the_artifacts(done: Done, verdict: VerdictRead) -> None:
    for score in verdict.arms:
        means = losses(done, score.arm).mean(axis=1)
        assert score.mean == pytest.approx(means.mean())
        assert score.std == pytest.approx(means.std(ddof=1))
        assert score.seeds == len(means)
        told = [pair.scores[score.arm] for pair in verdict.pairs]
        assert told == pytest.approx(means.tolist())
    seeds = [row.seed for row in done.trials(phase="compare", arm="without")]
    assert [pair.seed for pair in verdict.pairs] == seeds
    searched = {score.arm: score.trials for score in verdict.arms}
    assert searched == {"without": 8, "with": 8, "textbook": 0}


def test_look_holds_what_decides(verdict: VerdictRead, anova: Anova) -> None:
    (look,) = verdict.looks
    assert look == LookRead(
        look=1, seeds=5, examples=240, level=0.0314, effect=verdict.effect or 0.0,
        interval=verdict.interval, df=verdict.df, ms_seed=look.ms_seed,
        ms_example=look.ms_example, ms_residual=look.ms_residual,
        seed_effects=look.seed_effects, decision="helps",
    )  # fmt: skip
    assert look.ms_seed == pytest.approx(anova.ms_a, rel=1e-8)
    assert look.ms_example == pytest.approx(anova.ms_b, rel=1e-8)
    assert look.ms_residual == pytest.approx(anova.ms_e, rel=1e-8)
    assert look.seed_effects == pytest.approx(anova.rows.tolist())


def test_detectable_effect_is_that_of_the_cap(verdict: VerdictRead, anova: Anova) -> None:
    """03, section 9: 1.1 (t(.975, df) + t(.8, df)) sqrt(V(8, N))."""
    r, n = 8, anova.n
    seed = max(anova.ms_a - anova.ms_e, 0) / n
    example = max(anova.ms_b - anova.ms_e, 0) / anova.r
    a, b, e = n * seed + anova.ms_e, r * example + anova.ms_e, anova.ms_e
    q = max(a + b - e, a, b)
    df = q**2 / (a**2 / (r - 1) + b**2 / (n - 1) + e**2 / ((r - 1) * (n - 1)))
    quantiles = stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)
    expected = 1.1 * quantiles * np.sqrt(q / (r * n))
    assert verdict.detectable_effect == pytest.approx(expected, rel=1e-6)


def test_secondary_contrasts_are_adjusted_by_holm(done: Done, verdict: VerdictRead) -> None:
    accuracy, textbook = verdict.secondary
    assert (accuracy.name, accuracy.metric, accuracy.adjusted) == ("accuracy", "accuracy", "holm")
    assert (accuracy.effect, accuracy.interval) == (0.0, (0.0, 0.0))  # the same predictions
    by_hand = Anova(losses(done, "without") - losses(done, "textbook"))
    assert textbook.effect == pytest.approx(by_hand.effect)
    assert by_hand.p < 0.025
    assert textbook.level == 0.025  # the smaller of two p-values
    assert accuracy.level == 0.05
    assert textbook.interval == pytest.approx(by_hand.interval(0.025), rel=1e-8)


def test_cost_counts_every_phase(done: Done, verdict: VerdictRead) -> None:
    spent = {
        phase: sum(row.seconds for row in done.trials(phase=phase))
        for phase in ("search", "shortlist", "compare")
    }
    assert verdict.cost.device_seconds == pytest.approx(spent, abs=1e-3)
    assert verdict.cost.epochs_ratio == 1.0


class Accurate(ToyWorker):
    """Predicts more examples wrong without dropout."""

    def upload(self, lease: Lease, trial: TrialAssignment) -> str:
        tensors = safetensors.numpy.load(score_file(np.full(240, 0.3)))
        n_wrong = 24 + (0 if trial.sites else 24) + trial.seed % 5
        wrong = np.random.default_rng(trial.seed).permutation(240)[:n_wrong]
        prediction = np.where(tensors["target"] == 1, 0.2, 0.8)
        prediction[wrong] = 1 - prediction[wrong]
        tensors["prediction"] = np.stack([prediction, 1 - prediction], 1).astype(np.float32)
        return self.put(safetensors.numpy.save(tensors))


def test_accuracy_is_better_when_it_is_larger(service: Service) -> None:
    worker = Accurate(service)
    job_id = submit(service, objective={"metric": "accuracy"})
    run_until_done(service, worker)
    verdict = job_row(service, job_id).verdict
    assert verdict is not None
    assert (verdict.verdict, verdict.direction) == ("helps", "maximize")
    assert verdict.effect == pytest.approx(0.1, abs=0.02)
    means = {score.arm: score.mean or 0.0 for score in verdict.arms}
    assert verdict.effect == pytest.approx(means["with"] - means["without"])
    assert [one.name for one in verdict.secondary] == ["textbook"]


def worse_with_dropout(trial: TrialAssignment, epoch: int) -> float:
    noise = 0.002 * float(np.random.default_rng(trial.seed).standard_normal())
    return 0.3 + 0.1 / epoch + 0.05 * len(trial.sites) + noise


@pytest.mark.parametrize("dataset", ["digits", "houses"])
def test_larger_loss_with_dropout_hurts(service: Service, dataset: str) -> None:
    worker = ToyWorker(service, loss=worse_with_dropout)
    job_id = submit(service, dataset=dataset)
    run_until_done(service, worker)
    verdict = job_row(service, job_id).verdict
    assert verdict is not None
    assert verdict.verdict == "hurts"
    assert verdict.effect is not None
    assert verdict.effect < -0.04
    assert verdict.seeds_better == 0


# ---- a look, without a job around it


def evidence(done: Done, **changes: Any) -> Evidence:
    trainings: dict[str, list[Training]] = {}
    for arm in done.job.spec.compare.arms:
        rows = done.trials(phase="compare", arm=arm)
        files = [read_scores(path) for path in paths_of(done, arm)]
        trainings[arm] = [Training(*pair) for pair in zip(rows, files, strict=True)]
    whole = Evidence(
        job=replace(done.job, verdict=None), trainings=trainings, plan=plan_looks("quick"),
        searched={"without": 8, "with": 8}, search_cautions=("with_undertuned",),
        device_seconds={}, budget_left=True,
    )  # fmt: skip
    return replace(whole, **changes)


def test_look_is_the_one_that_the_job_stored(done: Done, verdict: VerdictRead) -> None:
    look, told = look_at(evidence(done))
    assert look.decision.verdict == "helps"
    same = {"looks", "interval", "effect", "pairs", "arms", "secondary", "variance"}
    assert told.model_dump(include=same) == verdict.model_dump(include=same)
    assert "with_undertuned" in told.cautions


def test_look_taken_again_is_listed_once(done: Done) -> None:
    _, told = look_at(evidence(done, job=done.job))
    assert [look.look for look in told.looks] == [1]


def test_examples_of_one_group_count_once(done: Done) -> None:
    whole = evidence(done)
    groups = np.arange(240, dtype=np.int64) // 4
    grouped = {
        arm: [replace(one, scores=replace(one.scores, group=groups)) for one in of_arm]
        for arm, of_arm in whole.trainings.items()
    }
    _, told = look_at(replace(whole, trainings=grouped))
    means = [losses(done, arm).reshape(5, 60, 4).mean(axis=2) for arm in ("without", "with")]
    by_hand = Anova(means[0] - means[1])
    assert told.examples == 60
    assert told.interval == pytest.approx(by_hand.interval(0.0314), rel=1e-6)


def test_rows_in_another_order_are_refused(done: Done) -> None:
    whole = evidence(done)
    first = whole.trainings["with"][0]
    swapped = replace(first, scores=replace(first.scores, row=first.scores.row[::-1].copy()))
    trainings = {**whole.trainings, "with": [swapped, *whole.trainings["with"][1:]]}
    with pytest.raises(ValueError, match="different rows"):
        look_at(replace(whole, trainings=trainings))


def test_cost_of_trainings_that_never_came_to_an_epoch_is_not_told(done: Done) -> None:
    whole = evidence(done)
    at_once = [
        replace(one, trial=replace(one.trial, epoch=0, best_epoch=None, reason="diverged"))
        for one in whole.trainings["without"]
    ]
    _, told = look_at(replace(whole, trainings={**whole.trainings, "without": at_once}))
    assert told.cost.epochs_ratio is None
    assert "unstable_seeds" in told.cautions


def test_gap_is_told_of_training_and_validation_loss(done: Done) -> None:
    whole = evidence(done)
    values: dict[str, dict[str, float | None]] = {
        "train": {"loss": 0.2}, "validation": {"loss": 0.25},
    }  # fmt: skip
    fit = [
        replace(one, trial=replace(one.trial, values=values)) for one in whole.trainings["with"]
    ]
    _, told = look_at(replace(whole, trainings={**whole.trainings, "with": fit}))
    gaps = {score.arm: score.train_validation_gap for score in told.arms}
    assert gaps["with"] == pytest.approx(0.2)
    assert gaps["without"] is None


def test_untested_verdict_names_the_reason_and_the_cost(done: Done, verdict: VerdictRead) -> None:
    told = untested(done.job, "evidence_off", (), verdict.cost)
    assert (told.verdict, told.reason, told.provisional) == ("not_tested", "evidence_off", False)
    assert told.summary == "Not tested: evidence was off."
    assert (told.effect, told.interval, told.looks) == (None, None, ())
