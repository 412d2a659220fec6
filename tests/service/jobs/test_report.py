from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests import factories
from tests.factories import PROJECT, ToyWorker
from tests.service.conftest import Done

from dropt.errors import NotFound
from dropt.jobs import lists, verbs
from dropt.jobs import report as reports
from dropt.report.page import report_page, start_page
from dropt.spec.job import JobCreate
from dropt.spec.protocol import TrialAssignment
from dropt.spec.report import Report
from dropt.tuning.service import Service


def report_of(service: Service, job_id: str) -> Report:
    """The report, which its page can show."""
    found = reports.report(service, job_id, project=PROJECT)
    assert report_page(found)
    assert report_page(found, standalone=True)
    assert Report.model_validate_json(found.model_dump_json(by_alias=True)) == found
    return found


def test_report_holds_the_answers_as_they_are_given_elsewhere(done: Done) -> None:
    report = report_of(done.service, done.job.id)
    assert report.verdict == lists.verdict(done.service, done.job.id, project=PROJECT)
    assert report.best == lists.best(done.service, done.job.id, project=PROJECT)
    assert report.job == lists.read_job(done.service, done.job.id, project=PROJECT)
    assert not report.provisional


def test_means_of_arms_have_the_interval_of_student(done: Done) -> None:
    report = report_of(done.service, done.job.id)
    assert report.verdict is not None
    for mean in report.means:
        scores = np.array([pair.scores[mean.arm] for pair in report.verdict.pairs], dtype=float)
        low, high = stats.t.interval(0.95, len(scores) - 1, scores.mean(), stats.sem(scores))
        assert mean.mean == pytest.approx(scores.mean())
        assert mean.interval == pytest.approx((low, high))


def test_curves_are_means_over_the_seeds_of_the_comparison(done: Done) -> None:
    report = report_of(done.service, done.job.id)
    assert {curve.arm for curve in report.curves} == {"without", "with", "textbook"}
    curve = next(one for one in report.curves if one.arm == "without")
    rows = done.trials(phase="compare", arm="without")
    assert (curve.seeds, curve.epoch) == (len(rows), (1, 2, 3))
    last = [row.values["validation"]["loss"] for row in rows]
    assert curve.validation.mean[-1] == pytest.approx(np.mean(np.array(last, dtype=float)))
    assert not curve.train_in_evaluation


def test_spending_counts_every_epoch_and_what_pruning_saved(done: Done) -> None:
    report, rows = report_of(done.service, done.job.id), done.trials()
    assert report.spending.epochs == sum(row.epoch for row in rows)
    saved = sum(row.epochs - row.epoch for row in rows if row.state == "pruned")
    assert report.spending.epochs_unpruned - report.spending.epochs == saved > 0
    assert report.spending.pruned == sum(row.state == "pruned" for row in rows)
    assert report.job.consumed.epochs == report.spending.epochs


def test_history_has_every_search_trial_in_the_order_of_their_making(done: Done) -> None:
    history = report_of(done.service, done.job.id).history
    assert [dot.order for dot in history.dots] == list(range(1, history.trials + 1))
    assert {dot.trial for dot in history.dots} == {row.id for row in done.trials(phase="search")}
    for arm in history.arms:
        values = [value for _, value in arm.best_so_far]
        assert values == sorted(values, reverse=True)
        best = min(
            dot.value for dot in history.dots
            if dot.arm == arm.arm and dot.state == "completed" and dot.value is not None
        )  # fmt: skip
        assert values[-1] == best


def test_a_site_that_was_taken_out_says_so(raced: Done) -> None:
    report = report_of(raced.service, raced.job.id)
    assert report.where is not None
    (site,) = (one for one in report.where.sites if one.mark == "taken_out")
    assert (site.site, site.rate) == ("layers.3:out", 0.0)
    assert site.reason is not None
    assert "no harm could be measured" in site.reason
    (output,) = (one for one in report.where.sites if one.mark == "output")
    assert (output.site, output.rate) == ("layers.4:out", None)


def test_ranges_within_noise_hold_the_rates_of_all_ties(raced: Done) -> None:
    report = report_of(raced.service, raced.job.id)
    assert report.where is not None
    assert report.ties
    for site in report.where.sites:
        rates = [one.rate for tie in report.ties for one in tie.sites if one.site == site.site]
        if site.same_within_noise is not None:
            assert site.same_within_noise == (min(rates), max(rates))


def test_the_body_submits_the_same_job_again(done: Done, service: Service) -> None:
    ToyWorker(service)  # a job needs one that knows its model
    body = reports.body_of(done.job)
    again, _ = verbs.submit(service, JobCreate.model_validate(body), project=PROJECT)
    assert again.spec == done.job.spec


def hurting(trial: TrialAssignment, epoch: int) -> float:
    return factories.loss_of(trial, epoch) + 0.1 * len(trial.sites)


@pytest.mark.parametrize(
    ("fields", "word", "empty"),
    [
        ({"evidence": False}, "not_tested", {"seeds", "curves", "ablation", "ties"}),
        ({"compare": {"arms": ["without", "with"]}}, None, set()),
        ({"search": {"exclude": ["*"]}}, None, set()),
    ],
)
def test_whatever_a_job_leaves_out_has_its_reason(
    service: Service, fields: dict[str, Any], word: str | None, empty: set[str]
) -> None:
    worker = ToyWorker(service)
    job_id = factories.submit(service, **fields)
    factories.run_until_done(service, worker)
    report = report_of(service, job_id)
    if word is not None:
        assert report.verdict is not None
        assert report.verdict.verdict == word
    assert empty <= set(report.empty)
    assert all(why.endswith(".") for why in report.empty.values())


def test_dropout_that_hurts_is_not_recommended(service: Service) -> None:
    worker = ToyWorker(service, loss=hurting)
    job_id = factories.submit(service, search={"sites": [{"match": "*", "always_on": True}]})
    factories.run_until_done(service, worker)
    report = report_of(service, job_id)
    assert report.verdict is not None
    assert report.verdict.verdict == "hurts"
    assert report.where is not None
    assert not report.where.recommended
    assert report.use is not None
    assert report.use.arm == "without"


def test_a_queued_a_running_and_a_cancelled_job_have_a_report(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = factories.submit(service)
    queued = report_of(service, job_id)
    assert queued.provisional
    assert {"verdict", "where", "search", "use"} <= set(queued.empty)
    factories.run_until(service, worker, "search", job_id=job_id)
    worker.work_once()
    running = report_of(service, job_id)
    assert running.history.dots
    assert "response" in running.empty
    verbs.cancel(service, job_id, project=PROJECT)
    factories.run_until_done(service, worker)
    assert report_of(service, job_id).job.state == "cancelled"


def test_a_failed_job_says_why(service: Service) -> None:
    worker = ToyWorker(service, failing=lambda trial, epoch: "error")
    job_id = factories.submit(service, budget={"trials": 4, "max_failed_trials": 0})
    factories.run_until_done(service, worker)
    report = report_of(service, job_id)
    assert report.job.state == "failed"
    assert report.spending.failures["error"] >= 1
    assert report.job.failure is not None


def test_the_stamp_changes_when_the_job_does(service: Service) -> None:
    worker, job_id = ToyWorker(service), factories.submit(service)
    first = reports.stamp(service, job_id, project=PROJECT)
    assert reports.stamp(service, job_id, project=PROJECT) == first
    factories.run_until_done(service, worker)
    last = reports.stamp(service, job_id, project=PROJECT)
    assert last != first
    assert last.is_final


def test_jobs_of_other_projects_are_not_found(done: Done) -> None:
    with pytest.raises(NotFound):
        reports.stamp(done.service, done.job.id, project="other")
    with pytest.raises(NotFound):
        reports.report(done.service, done.job.id, project="other")
    assert reports.start_page(done.service, project="other").jobs == ()


def test_start_page_lists_jobs_with_their_verdicts(raced: Done) -> None:
    page = reports.start_page(raced.service, project=PROJECT)
    (card,) = page.jobs
    assert card.summary == lists.verdict(raced.service, raced.job.id, project=PROJECT).summary
    assert card.sites_searched == 3
    assert card.sites_kept is not None
    assert 0 < card.sites_kept < 3
    html = start_page(page, server="http://localhost:8000")
    assert f"/v1/jobs/{raced.job.id}/report" in html


def test_start_page_without_a_worker_says_how_to_start_one(service: Service) -> None:
    html = start_page(reports.start_page(service, project=PROJECT), server="http://x:1")
    assert "dropt-worker --server http://x:1" in html
    assert "There are no jobs yet" in html
    ToyWorker(service)
    later = start_page(reports.start_page(service, project=PROJECT), server="http://x:1")
    assert "dropt-worker" not in later
