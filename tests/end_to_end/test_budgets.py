"""Budgets are exact, whatever the number of workers."""

from pathlib import Path

import pytest
from tests.history import check
from tests.processes import finished, serving

from dropt.spec.job import JobCreate

pytestmark = pytest.mark.slow

N_TRIALS, N_RUNS = 21, 3


@pytest.mark.parametrize("workers", [1, 4])
def test_each_arm_gets_exactly_its_trials(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path / "state", workers=workers) as service, service.client() as client:
        for seed in range(N_RUNS):
            body = {
                "model": "mlp", "dataset": "digits", "evidence": False,
                "budget": {"trials": N_TRIALS}, "training": {"epochs": 6},
                "search": {"seed": seed},
            }  # fmt: skip
            job = finished(client, client.create_job(JobCreate.model_validate(body)).id)
            assert job.state == "succeeded", job.reason
            assert client.get_verdict(job.id).verdict == "not_tested"
            trials = list(client.iterate_trials(job.id))
            for arm in ("without", "with"):
                numbers = sorted(trial.number for trial in trials if trial.arm == arm)
                assert numbers == list(range(N_TRIALS))
            assert all(trial.state in ("completed", "pruned") for trial in trials)
            assert check(list(client.iterate_events(job.id)), trials) == []
