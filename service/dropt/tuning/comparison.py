"""The comparison: from per-example test scores of paired seeds to a verdict that can be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from dropt.spec.job import DIRECTIONS, METRICS_OF
from dropt.spec.results import (
    ArmScore,
    Comparison,
    Cost,
    LookRead,
    Pair,
    ThisSplit,
    VerdictRead,
)
from dropt.storage.jobs import JobRow
from dropt.storage.trials import TrialRow
from dropt.tuning.cautions import evidence_cautions
from dropt.tuning.evidence import (
    CrossedStatistics,
    FloatArray,
    average_groups,
    crossed_interval,
    crossed_statistics,
    this_split,
)
from dropt.tuning.headline import headline, not_tested_headline, would_decide
from dropt.tuning.looks import LookPlan
from dropt.tuning.planning import detectable_effect, noise_of, outlook
from dropt.tuning.score_files import ScoreFile
from dropt.tuning.scores import paired_differences
from dropt.tuning.verdict import Look, Reason, holm_levels, take_look

PRIMARY = "with"
BASELINE = "without"


@dataclass(frozen=True, eq=False)
class Training:
    """One training of the comparison: what is stored of it, and its scores on the test split."""

    trial: TrialRow
    scores: ScoreFile


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that a look reads: the trainings of each arm, by seed index; arms are paired."""

    job: JobRow
    trainings: Mapping[str, Sequence[Training]]
    plan: LookPlan
    searched: Mapping[str, int]  # search trials that ended, by arm
    search_cautions: tuple[str, ...]
    device_seconds: Mapping[str, float]
    budget_left: bool

    def matrix(self, arm: str, metric: str) -> FloatArray:
        """Scores [R, N] of an arm; examples with a declared group are averaged within it."""
        return score_matrix(self.trainings[arm], metric)

    def statistics(self, arm: str, metric: str) -> CrossedStatistics:
        """Mean squares of an arm against the baseline, positive is better."""
        direction = DIRECTIONS[metric]
        return crossed_statistics(
            paired_differences(self.matrix(arm, metric), self.matrix(BASELINE, metric), direction)
        )


def score_matrix(trainings: Sequence[Training], metric: str) -> FloatArray:
    """Scores [R, N] of trainings; examples with a declared group are averaged within it."""
    return np.stack([_scores(training.scores, metric) for training in trainings])


def check_rows(trainings: Sequence[Training]) -> None:
    """Raise ValueError unless all are scored on the same rows in the same order."""
    rows = trainings[0].scores.row
    if any(not np.array_equal(rows, one.scores.row) for one in trainings):
        raise ValueError("the trainings are scored on different rows, so they do not pair")


def look_at(evidence: Evidence) -> tuple[Look, VerdictRead]:
    """One look at the paired seeds so far, and the verdict it gives.

    Raises:
        ValueError: the trainings are not scored on the same rows in the same order.
    """
    check_rows([one for arm in evidence.trainings.values() for one in arm])
    job = evidence.job
    assert job.min_effect is not None  # frozen before the first look
    metric = job.spec.objective.metric
    look = take_look(
        evidence.statistics(PRIMARY, metric),
        evidence.plan,
        min_effect=job.min_effect,
        budget_left=evidence.budget_left,
    )
    return look, _describe(evidence, look)


def untested(job: JobRow, reason: Reason, arms: tuple[ArmScore, ...], cost: Cost) -> VerdictRead:
    """The verdict of a comparison that was not made."""
    return VerdictRead(
        job=job.id,
        revision=job.revision,
        attempt=job.verdict_attempt,
        provisional=False,
        verdict="not_tested",
        reason=reason,
        summary=not_tested_headline(reason),
        metric=job.spec.objective.metric,
        direction=job.spec.objective.direction,
        min_effect=job.min_effect,
        arms=arms,
        cost=cost,
    )


def _describe(evidence: Evidence, look: Look) -> VerdictRead:
    job, found, decision = evidence.job, look.statistics, look.decision
    metric, min_effect = job.spec.objective.metric, job.min_effect or 0.0
    plan = outlook(
        noise_of(found), evidence.plan, n_examples=found.n_examples, min_effect=min_effect
    )
    without_mean = float(evidence.matrix(BASELINE, metric).mean())
    interval = look.interval
    return VerdictRead(
        job=job.id,
        revision=job.revision,
        attempt=job.verdict_attempt,
        provisional=decision.provisional,
        verdict=decision.verdict,
        size=decision.size,
        sign=decision.sign,
        reason=decision.reason,
        summary=headline(
            look, metric=metric, without_mean=without_mean, min_effect=min_effect
        ),
        metric=metric,
        direction=job.spec.objective.direction,
        min_effect=min_effect,
        effect=found.effect,
        interval=None if interval is None else (interval.low, interval.high),
        look=look.number,
        level=look.level,
        df=found.df,
        seeds=found.n_seeds,
        seeds_better=found.seeds_better,
        examples=found.n_examples,
        detectable_effect=detectable_effect(
            noise_of(found), n_seeds=evidence.plan.cap, n_examples=found.n_examples
        ),
        bottleneck=found.bottleneck,
        would_decide=would_decide(
            plan, n_seeds=evidence.plan.cap, metric=metric, min_effect=min_effect
        )
        if decision.verdict == "undecided" else None,
        variance={
            "seed": found.variance.seed,
            "example": found.variance.example,
            "residual": found.variance.residual,
        },
        this_split=_this_split(found),
        arms=tuple(_arm_score(evidence, arm) for arm in evidence.trainings),
        pairs=_pairs(evidence, metric),
        looks=(*_earlier_looks(job, look.number), _look_read(look)),
        secondary=_secondary(evidence),
        cautions=_cautions(evidence, found, metric),
        cost=_cost(evidence),
    )  # fmt: skip


def _scores(file: ScoreFile, metric: str) -> FloatArray:
    scores = file.scores(metric)  # type: ignore[arg-type]  # a metric of the job
    return scores if file.group is None else average_groups(scores, file.group)


def _secondary(evidence: Evidence) -> tuple[Comparison, ...]:
    """Accuracy beside a log loss, and the textbook arm: Holm-adjusted, never deciding."""
    metric = evidence.job.spec.objective.metric
    contrasts = []
    if metric != "accuracy" and "accuracy" in METRICS_OF[evidence.job.spec.task]:
        contrasts.append(("accuracy", PRIMARY, "accuracy"))
    if "textbook" in evidence.trainings:
        contrasts.append(("textbook", "textbook", metric))
    found = [evidence.statistics(arm, of) for _, arm, of in contrasts]
    comparisons = []
    for (name, _, of), one, level in zip(contrasts, found, holm_levels(found), strict=True):
        interval = crossed_interval(one, level)
        if interval is not None:
            comparisons.append(
                Comparison(
                    name=name, metric=of, effect=one.effect,  # type: ignore[arg-type]
                    interval=(interval.low, interval.high), level=level,
                    adjusted="holm" if len(found) > 1 else None,
                )
            )  # fmt: skip
    return tuple(comparisons)


def _arm_score(evidence: Evidence, arm: str) -> ArmScore:
    means = evidence.matrix(arm, evidence.job.spec.objective.metric).mean(axis=1).tolist()
    trainings = evidence.trainings[arm]
    return ArmScore(
        arm=arm,
        trials=evidence.searched.get(arm, 0),
        trial=trainings[0].trial.origin,
        mean=fmean(means),
        std=stdev(means) if len(means) > 1 else None,
        seeds=len(means),
        train_validation_gap=_gap(trainings),
    )


def _gap(trainings: Sequence[Training]) -> float | None:
    """Mean of (validation - train) / validation of the loss, in evaluation mode."""
    gaps = []
    for training in trainings:
        train = training.trial.values.get("train", {}).get("loss")
        validation = training.trial.values.get("validation", {}).get("loss")
        if train is not None and validation:
            gaps.append((validation - train) / validation)
    return fmean(gaps) if gaps else None


def _pairs(evidence: Evidence, metric: str) -> tuple[Pair, ...]:
    means = {arm: evidence.matrix(arm, metric).mean(axis=1) for arm in evidence.trainings}
    baseline = evidence.trainings[BASELINE]
    return tuple(
        Pair(
            seed=training.trial.seed,
            scores={arm: float(values[r]) for arm, values in means.items()},
        )
        for r, training in enumerate(baseline)
    )


def _this_split(found: CrossedStatistics) -> ThisSplit:
    interval = this_split(found)
    return ThisSplit(interval=(interval.low, interval.high))


def _look_read(look: Look) -> LookRead:
    found = look.statistics
    bounds = look.interval
    return LookRead(
        look=look.number, seeds=found.n_seeds, examples=found.n_examples, level=look.level,
        effect=found.effect,
        interval=(bounds.low, bounds.high) if bounds else None, df=found.df,
        ms_seed=found.ms_seed, ms_example=found.ms_example,
        ms_residual=found.ms_residual, seed_effects=found.seed_effects,
        decision="go_on" if look.decision.go_on else look.decision.verdict,
    )  # fmt: skip


def _earlier_looks(job: JobRow, number: int) -> tuple[LookRead, ...]:
    """The looks before this one, which may itself have been stored before a crash."""
    told = job.verdict
    stored = told.looks if told is not None and told.attempt == job.verdict_attempt else ()
    return tuple(one for one in stored if one.look < number)


def _cautions(evidence: Evidence, found: CrossedStatistics, metric: str) -> tuple[str, ...]:
    unstable = sum(
        one.trial.reason == "diverged" for arm in evidence.trainings.values() for one in arm
    )
    of_evidence = evidence_cautions(found, bounded=metric == "accuracy", n_unstable=unstable)
    return (*of_evidence, *evidence.search_cautions)


def _cost(evidence: Evidence) -> Cost:
    epochs = {
        arm: [one.trial.best_epoch or one.trial.epoch for one in trainings]
        for arm, trainings in evidence.trainings.items()
    }
    without = fmean(epochs[BASELINE])
    ratio = fmean(epochs[PRIMARY]) / without if without else None  # all diverged in epoch 1
    return Cost(device_seconds=dict(evidence.device_seconds), epochs_ratio=ratio)
