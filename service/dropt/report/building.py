"""The report as one value: a pure function of what is stored of a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pydantic import JsonValue

import dropt
from dropt.report.curves import curves_of, diagnose
from dropt.report.history import history_of, spending_of
from dropt.report.intervals import mean_interval
from dropt.report.placement import dropout_of, where_of
from dropt.report.sensitivity import FEWEST_TRIALS, sensitivity
from dropt.spec.phrases import CAUTIONS, phrase
from dropt.spec.protocol import SplitName
from dropt.spec.report import (
    ArmCurves,
    ArmMean,
    ArmSettings,
    Machine,
    Report,
    Reproduce,
    Sensitivity,
    UseIt,
    Where,
)
from dropt.spec.results import BestRead, Equivalent, JobRead, VerdictRead
from dropt.spec.space import Dropout
from dropt.storage.jobs import JobRow
from dropt.storage.measurements import Consumption, Point
from dropt.storage.trials import TrialRow

AFTER_SEARCH = ("evidence", "reporting", None)


@dataclass(frozen=True)
class Material:
    """What a report is made of: the answers as they are given elsewhere, and the trials."""

    row: JobRow
    job: JobRead
    verdict: VerdictRead | None
    best: BestRead | None
    ties: tuple[Equivalent, ...]
    trials: Sequence[TrialRow]
    points: Mapping[str, Sequence[Point]]  # of the trainings of the comparison
    used: Mapping[tuple[str, str], Consumption]
    lane: str | None
    machines: tuple[Machine, ...]
    rows: Mapping[SplitName, int]
    body: dict[str, JsonValue]
    use: UseIt | None


def build(material: Material) -> Report:
    """Every number of the page."""
    row, verdict, best = material.row, material.verdict, material.best
    curves = _curves(material)
    sensitive = _sensitivity(material)
    where = _where(material)
    arms = verdict.arms if verdict is not None else ()
    targets = {arm.arm: arm.target for arm in material.job.progress.arms}
    report = Report(
        revision=row.revision,
        provisional=not row.is_done,
        job=material.job,
        verdict=verdict,
        best=best,
        cautions=_cautions(verdict),
        where=where,
        means=_means(verdict),
        curves=curves,
        sensitivity=sensitive,
        ties=material.ties,
        settings=_settings(best),
        history=history_of(row, material.trials, targets),
        spending=spending_of(row, material.trials, material.used, lane=material.lane),
        diagnosis=diagnose(arms),
        use=material.use,
        reproduce=_reproduce(material),
        empty={},
    )
    return report.model_copy(update={"empty": _why_empty(report)})


def _cautions(verdict: VerdictRead | None) -> tuple[str, ...]:
    return tuple(phrase(one, CAUTIONS) for one in verdict.cautions) if verdict is not None else ()


def _where(material: Material) -> Where | None:
    if material.best is None or material.row.space is None:
        return None
    tested = material.verdict is not None and bool(material.verdict.pairs)
    return where_of(material.best, material.row.space, material.ties, tested=tested)


def _means(verdict: VerdictRead | None) -> tuple[ArmMean, ...]:
    """Mean and interval of each arm over the seeds that it was scored on."""
    if verdict is None:
        return ()
    found = []
    for arm in verdict.arms:
        scores = [pair.scores.get(arm.arm) for pair in verdict.pairs]
        values = [score for score in scores if score is not None]
        if values:
            mean, bounds = mean_interval(values)
            found.append(ArmMean(arm=arm.arm, mean=mean, interval=bounds, seeds=len(values)))
    return tuple(found)


def _curves(material: Material) -> tuple[ArmCurves, ...]:
    trainings = sorted(
        (row for row in material.trials if row.phase == "compare" and row.state == "completed"),
        key=lambda row: row.arm,
    )
    of_arm = {arm: list(rows) for arm, rows in groupby(trainings, key=lambda row: row.arm)}
    order = [arm for arm in material.row.spec.compare.arms if arm in of_arm]
    found = (curves_of(arm, of_arm[arm], material.points) for arm in order)
    return tuple(one for one in found if one is not None)


def _sensitivity(material: Material) -> Sensitivity | None:
    """Computed once the search is over: before, it would change with every trial."""
    row, best = material.row, material.best
    if best is None or row.space is None or row.phase not in AFTER_SEARCH:
        return None
    chosen = {
        site.site: Dropout.model_validate({"kind": site.kind, "rate": site.rate})
        for site in dropout_of(best).sites
        if site.rate > 0
    }
    return sensitivity(row.spec, row.space, material.trials, chosen=chosen)


def _settings(best: BestRead | None) -> tuple[ArmSettings, ...]:
    if best is None:
        return ()
    every = (best.recommended, *best.alternatives)
    return tuple(ArmSettings(arm=one.arm, params=one.other, value=one.value) for one in every)


def _reproduce(material: Material) -> Reproduce:
    row, verdict = material.row, material.verdict
    split = row.spec.dataset.split
    trial = material.best.recommended.trial if material.best is not None else None
    commands = [f"dropt show {row.id}", f"dropt logs {row.id}"]
    if trial is not None:
        commands += [f"dropt capsule {trial}", f"dropt reproduce {trial}.json"]
    return Reproduce(
        dataset_sha256=row.spec.dataset_sha256,
        split=split.model_dump(mode="json") if split is not None else None,
        rows=dict(material.rows.items()),
        search_seed=row.spec.search.seed,
        evidence_seeds=tuple(pair.seed for pair in verdict.pairs) if verdict is not None else (),
        fingerprint=row.space.fingerprint if row.space is not None else None,
        service=dropt.__version__,
        machines=material.machines,
        body=material.body,
        commands=tuple(commands),
    )


def _why_empty(report: Report) -> dict[str, str]:
    """Block to one sentence: why nothing is shown, and what fills it."""
    job = report.job
    untested = _why_untested(report)
    sentences = {
        "verdict": (report.verdict is None, untested),
        "where": (report.where is None, "No trial has completed, so there is no placement yet."),
        "seeds": (not report.means, untested),
        "curves": (not report.curves, untested),
        "response": (
            report.sensitivity is None or not report.sensitivity.responses,
            _why_insensitive(report),
        ),
        "ablation": (
            report.verdict is None or not report.verdict.ablation,
            _why_unablated(report),
        ),
        "ties": (len(report.ties) < 2, _why_no_ties(report)),
        "neighbours": (not report.settings, "No trial has completed, so no arm has settings yet."),
        "search": (not report.history.dots, f"No trial was made yet; the job is {job.state}."),
        "diagnosis": (not report.diagnosis, _why_undiagnosed(report)),
        "use": (report.use is None, "There is no configuration yet: no trial has completed."),
    }
    return {block: why for block, (is_empty, why) in sentences.items() if is_empty}


def _why_untested(report: Report) -> str:
    job = report.job
    if report.verdict is not None and report.verdict.verdict == "not_tested":
        return f"{report.verdict.summary} Submit the job again with what is missing to fill this."
    if job.done:
        why = f": {job.reason}" if job.reason else ""
        return f"The job ended before fresh seeds were compared ({job.state}{why})."
    return f"The comparison on fresh seeds has not begun; the job is {job.phase or job.state}."


def _why_insensitive(report: Report) -> str:
    if not report.job.done and report.job.phase not in AFTER_SEARCH:
        return "It is computed when the search has ended."
    return (
        f"Fewer than {FEWEST_TRIALS} completed trials of the arm 'with', or no rate that varied: "
        "a curve would be a guess. More trials (budget.trials) fill it."
    )


def _why_undiagnosed(report: Report) -> str:
    if report.verdict is None or not report.verdict.arms:
        return _why_untested(report)
    return "The worker reports no score on the training rows, so the gap is not measured."


def _why_unablated(report: Report) -> str:
    effort = report.job.spec.evidence
    if effort is not False and effort.effort == "quick":
        return "Quick evidence trains no ablation; evidence.effort 'default' does."
    if report.verdict is None or not report.verdict.pairs:
        return _why_untested(report)
    if report.verdict.verdict != "helps":
        return "Sites are taken out one at a time only where dropout as a whole helps."
    return "The tested configuration has one rate, and the verdict itself is about that one."


def _why_no_ties(report: Report) -> str:
    if report.verdict is None or report.job.spec.evidence is False:
        return _why_untested(report)
    return "No other configuration of the shortlist is as good on fresh validation seeds."
