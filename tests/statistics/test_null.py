"""Real trainings of which nothing is to be found: dropout that draws masks and drops nothing."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.processes import serving
from tests.statistics.telling import tell

from dropt.spec.job import JobCreate

pytestmark = pytest.mark.statistics

N_JOBS = 100
NOTHING = 1e-6  # of the units of a hidden layer of 16: one mask in 60,000 drops any


def body(seed: int) -> dict[str, Any]:
    return {
        "model": {"name": "mlp", "args": {"hidden": [16]}},
        "dataset": "digits",
        "compare": {"arms": ["without", "with"]},
        "search": {"seed": seed, "sites": [{"match": "layers.1:out", "rate": NOTHING}]},
        "training": {"epochs": 6},
        "budget": {"trials": 30},
    }


def test_dropout_that_drops_nothing_is_seldom_called_a_benefit(tmp_path: Path) -> None:
    """At most 5 of 100 jobs; both arms are searched, so that luck with the settings counts."""
    words: Counter[str | None] = Counter()
    with serving(tmp_path / "state", workers=2) as running, running.client() as client:
        for seed in range(N_JOBS):
            job = client.create_job(JobCreate.model_validate(body(seed)))
            while not job.done:
                job = client.get_job(job.id, wait_s=20)
            words[job.verdict] += 1
    tell(f"{N_JOBS} jobs with dropout that drops nothing: {dict(words)}")
    assert words.total() == N_JOBS
    assert words["helps"] <= 5
    assert words[None] + words["not_tested"] == 0
