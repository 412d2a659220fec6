from typing import Any

import pytest
from tests.factories import dataset, inspection, job_body, registration

from dropt.jobs.submission import resolve
from dropt.spec.job import JobSpec
from dropt.spec.preview import Estimate
from dropt.tuning.budget import n_reserved_trainings
from dropt.tuning.estimating import NO_PROBE, estimate, steps_per_epoch, usual_epochs

OFFER = dataset("digits")
SPEED = {"1": 100.0, "8": 400.0, "16": 500.0}


def spec_of(**fields: Any) -> JobSpec:
    models = {offer.name: offer for offer in registration().models}
    return resolve(job_body(**fields), models=models, datasets={"digits": OFFER})


def estimate_of(n_workers: int = 2, *, lane: str = "fused", **fields: Any) -> Estimate:
    found = inspection()
    assert found.probe is not None
    probe = found.probe.model_copy(update={"trial_steps_per_second": SPEED, "lane": lane})
    found = found.model_copy(update={"probe": probe})
    return estimate(spec_of(**fields), OFFER, found=found, space=None, n_workers=n_workers)


def test_time_is_steps_over_the_measured_speed() -> None:
    spec = spec_of(search={"pruner": {"name": "none"}}, training={"epochs": 10})
    told = estimate_of(search={"pruner": {"name": "none"}}, training={"epochs": 10})
    n_evidence = n_reserved_trainings(spec, 0)
    assert told.trainings == {"search": 12, "evidence": n_evidence}
    assert told.epochs == 10 * (12 + n_evidence)
    assert steps_per_epoch(spec, OFFER) == 9  # 520 rows in batches of 64
    assert told.device_seconds == pytest.approx(told.epochs * 9 / 400.0, abs=0.1)
    assert told.seconds == pytest.approx(told.epochs * 9 / 800.0, abs=0.1)
    assert "400 steps/s" in told.basis


def test_speed_is_that_of_the_slots_that_the_job_will_have() -> None:
    assert "500 steps/s" in estimate_of(resources={"slots": 20}).basis
    assert "100 steps/s" in estimate_of(lane="solo").basis


def test_pruner_lets_one_in_three_pass_each_rung() -> None:
    pruner = {"name": "successive_halving", "rungs": [0.3, 0.6], "factor": 3}
    spec = spec_of(search={"pruner": pruner}, training={"epochs": 10})
    assert usual_epochs(spec) == pytest.approx(3 + 3 / 3 + 4 / 9)
    assert usual_epochs(spec_of(search={"pruner": {"name": "none"}})) == 3


def test_limits_of_the_job_bound_its_time() -> None:
    told = estimate_of(budget={"trials": 6000, "seconds": 60, "device_seconds": 90})
    assert (told.seconds, told.device_seconds) == (60, 90)


def test_unknown_speed_is_null_and_says_so() -> None:
    told = estimate(spec_of(), OFFER, found=None, space=None, n_workers=0)
    assert (told.seconds, told.device_seconds, told.basis) == (None, None, NO_PROBE)


def test_detectable_effect_is_told_for_an_accuracy_alone() -> None:
    quick = estimate_of(objective={"metric": "accuracy"}).detectable_effect
    more = estimate_of(
        objective={"metric": "accuracy"}, evidence={"effort": "thorough"}
    ).detectable_effect
    assert quick is not None
    assert more is not None
    assert 0 < more < quick < 0.1
    assert estimate_of().detectable_effect is None
    assert estimate_of(evidence=False).trainings["evidence"] == 0
