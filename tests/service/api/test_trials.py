import pytest
from starlette.testclient import TestClient
from tests.service.api.probes import assert_problem

from dropt.spec.capsule import Capsule, Curve
from dropt.spec.results import TrialRead


@pytest.fixture
def trial(shared: TestClient, path: str) -> TrialRead:
    """One that was trained to its end."""
    url = f"{path}/trials?arm=with&state=completed&page_size=1"
    return TrialRead.model_validate(shared.get(url).json()["items"][0])


def test_a_trial_is_found_under_its_job_and_by_its_own_id(
    shared: TestClient, path: str, trial: TrialRead
) -> None:
    for of in (path, "/v1/jobs/-"):
        read = TrialRead.model_validate(shared.get(f"{of}/trials/{trial.id}").json())
        assert read == trial


def test_the_curve_has_every_epoch_and_ends_at_the_last_value(
    shared: TestClient, path: str, trial: TrialRead
) -> None:
    curve = Curve.model_validate(shared.get(f"{path}/trials/{trial.id}/curve").json())
    assert curve.epoch == tuple(range(1, trial.epochs + 1))
    columns = (curve.train_loss, curve.validation_loss, *curve.metrics.values())
    assert {len(column) for column in columns} == {trial.epochs}
    assert trial.value in curve.metrics["nll"]


def test_the_capsule_holds_what_the_trial_was_given(
    shared: TestClient, path: str, trial: TrialRead
) -> None:
    capsule = Capsule.model_validate(shared.get(f"{path}/trials/{trial.id}/capsule").json())
    spec = shared.get(path).json()["spec"]
    assert (capsule.trial.seed, capsule.trial.sites) == (trial.seed, trial.sites)
    assert capsule.trial.params == trial.params
    assert capsule.dataset.sha256 == spec["dataset_sha256"]
    assert capsule.training.epochs == spec["training"]["epochs"]
    assert capsule.model.fingerprint
    assert capsule.provenance is not None
    assert capsule.provenance.versions
    assert trial.id in capsule.command


def test_a_trial_of_another_job_or_of_none_is_not_found(
    shared: TestClient, path: str, trial: TrialRead
) -> None:
    for part in ("", "/curve", "/capsule"):
        assert_problem(shared.get(f"/v1/jobs/job_x/trials/{trial.id}{part}"), 404, "not-found")
        assert_problem(shared.get(f"{path}/trials/trl_x{part}"), 404, "not-found")
