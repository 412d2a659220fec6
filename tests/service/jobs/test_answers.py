from dataclasses import replace

import pytest
from tests.factories import (
    PROJECT,
    ToyWorker,
    advance_all,
    job_row,
    run_until_done,
    submit,
    trial_rows,
)
from tests.service.conftest import Done

from dropt.errors import NoResultYet
from dropt.jobs import lists
from dropt.jobs.answers import best_of, verdict_of
from dropt.spec.protocol import TrialAssignment
from dropt.spec.results import BestRead, VerdictWord
from dropt.tuning.service import Service


@pytest.fixture
def best(done: Done) -> BestRead:
    return lists.best(done.service, done.job.id, project=PROJECT, top=2)


def test_dropout_that_helps_is_recommended_where_it_was_compared(
    done: Done, best: BestRead
) -> None:
    (compared, *_) = done.trials(phase="compare", arm="with")
    assert best.verdict == "helps"
    assert best.recommended.arm == "with"
    rates = {site.site: site.rate for site in best.recommended.sites if site.rate > 0}
    assert rates == {site: of.rate for site, of in compared.sites.items()}
    assert best.recommended.other == compared.params
    assert [one.arm for one in best.alternatives] == ["without"]
    assert not best.provisional


def test_every_searched_site_is_told_and_the_output_layer_as_never(
    done: Done, best: BestRead
) -> None:
    assert [site.site for site in best.recommended.sites] == [
        "layers.0:in", "layers.1:out", "layers.3:out",
    ]  # fmt: skip
    assert all(site.rate == 0.0 for site in best.alternatives[0].sites)
    assert all(site.units == 8 and site.kind == "element" for site in best.recommended.sites)
    assert [(one.site, one.reason) for one in best.never_dropped] == [
        ("layers.4:out", "output_layer")
    ]
    assert best.reproduce == {
        "search_seed": 0, "dataset_sha256": done.job.spec.dataset_sha256, "fingerprint": "51ab",
    }  # fmt: skip


def test_top_lists_the_best_searched_trials_of_each_arm(done: Done, best: BestRead) -> None:
    for arm in ("without", "with"):
        told = [one.value for one in best.top if one.arm == arm]
        values = [
            row.value
            for row in done.trials(phase="search", arm=arm, states=["completed"])
            if row.value is not None
        ]
        assert told == sorted(values)[:2]
    assert lists.best(done.service, done.job.id, project=PROJECT).top == ()


@pytest.mark.parametrize(
    ("word", "arm"),
    [
        ("helps", "with"),
        ("hurts", "without"),
        ("no_measurable_difference", "without"),
        ("undecided", "without"),
        ("not_tested", "without"),
    ],
)
def test_dropout_is_recommended_only_when_it_helps(
    done: Done, word: VerdictWord, arm: str
) -> None:
    assert done.job.verdict is not None
    told = replace(done.job, verdict=done.job.verdict.model_copy(update={"verdict": word}))
    with done.service.database.reading() as session:
        best = best_of(session, told, top=0)
    assert best.recommended.arm == arm
    assert {one.arm for one in best.alternatives} == {"without", "with"} - {arm}


def test_job_with_one_arm_recommends_that(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service, compare={"arms": ["with"]})
    run_until_done(service, worker)
    best = lists.best(service, job_id, project=PROJECT)
    assert (best.recommended.arm, best.verdict) == ("with", "not_tested")
    assert best.alternatives == ()


def test_maximised_metric_recommends_the_largest_value(service: Service) -> None:
    def loss(trial: TrialAssignment, epoch: int) -> float:
        return 0.1 * trial.number + 0.1

    worker = ToyWorker(service, loss=loss)
    job_id = submit(service, objective={"metric": "accuracy"}, evidence=False,
                    search={"pruner": {"name": "none"}})  # fmt: skip
    run_until_done(service, worker)
    best = lists.best(service, job_id, project=PROJECT, top=3)
    assert [one.value for one in best.top if one.arm == "with"] == pytest.approx(
        [1 - 0.1 / 4, 1 - 0.2 / 4, 1 - 0.3 / 4]
    )
    assert best.recommended.value == pytest.approx(1 - 0.1 / 4)


def test_verdict_carries_the_revision_of_its_job(done: Done) -> None:
    verdict = verdict_of(done.job)
    assert verdict.revision == done.job.revision
    assert verdict.job == done.job.id


def test_verdict_of_a_job_that_ended_is_not_provisional(done: Done) -> None:
    assert done.job.verdict is not None
    open_look = done.job.verdict.model_copy(update={"provisional": True})
    assert verdict_of(replace(done.job, verdict=open_look, state="running")).provisional
    assert not verdict_of(replace(done.job, verdict=open_look, state="cancelled")).provisional


def test_missing_verdict_says_what_the_job_waits_for(service: Service) -> None:
    ToyWorker(service)
    job = job_row(service, submit(service))
    with pytest.raises(NoResultYet, match="is queued and has no verdict: Waiting for a worker"):
        verdict_of(job)


def best_raced(raced: Done) -> BestRead:
    with raced.service.database.reading() as session:
        return best_of(session, raced.job, top=1)


def test_sites_that_were_taken_out_are_told_with_what_it_did(raced: Done) -> None:
    best = best_raced(raced)
    on = {site.site for site in best.recommended.sites if site.rate > 0}
    removed = [removal for removal in best.simplified if removal.removed]
    kept = {site for removal in best.simplified if not removal.removed for site in removal.sites}
    assert (best.recommended.arm, on, kept) == ("with", kept, {"layers.0:in", "layers.1:out"})
    assert [removal.sites for removal in removed] == [("layers.3:out",)]
    assert removed[0].low is not None
    assert removed[0].low <= 0
    assert {removal.seeds for removal in best.simplified} == {8}


def test_what_cannot_be_told_apart_is_told_with_the_cheapest_marked(raced: Done) -> None:
    found = best_raced(raced).indistinguishable
    assert {one.arm for one in found} == {"with"}
    cost = {
        one.trial: (sum(site.rate > 0 for site in one.sites), sum(site.rate for site in one.sites))
        for one in found
    }
    (marked,) = (one for one in found if one.cheapest)
    assert cost[marked.trial] == min(cost.values())
    known = {row.id for row in raced.trials()}
    assert {one.trial for one in found} <= known
    assert {one.seeds for one in found} <= {1, 3, 5}


def test_nothing_is_told_apart_before_the_race_is_over(service: Service) -> None:
    worker = ToyWorker(service)
    job_id = submit(service)
    while not trial_rows(service, job_id, phase="shortlist"):
        advance_all(service)
        worker.work_once()
    with service.database.reading() as session:
        best = best_of(session, job_row(service, job_id), top=1)
    assert (best.indistinguishable, best.simplified, best.provisional) == ((), (), True)
