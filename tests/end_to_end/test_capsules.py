"""A trial of a real job, trained again alone from its capsule in another folder."""

import json
import subprocess
from pathlib import Path

import pytest
from tests.processes import BIN, finished, serving

from dropt.client import Client
from dropt.spec.job import JobCreate
from dropt.spec.results import TrialRead

pytestmark = pytest.mark.slow

BODY = {"model": "mlp", "budget": {"trials": 6}, "training": {"epochs": 6}, "evidence": False}


def dropt(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "dropt", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def trial_of(client: Client, dataset: str) -> TrialRead:
    """One of a finished job that dropped something."""
    job = finished(
        client, client.create_job(JobCreate.model_validate({**BODY, "dataset": dataset})).id
    )
    trials = client.iterate_trials(job.id, arm="with")
    return next(trial for trial in trials if trial.state == "completed" and trial.sites)


def test_a_trial_of_a_pack_has_the_same_curve_alone(tmp_path: Path) -> None:
    with serving(tmp_path / "state") as service, service.client() as client:
        trial = trial_of(client, "digits")
        written = dropt("capsule", trial.id, "--to", tmp_path / "kept", "--server", service.url)
    path = tmp_path / "kept" / f"{trial.id}.json"
    assert written.stdout.strip() == str(path)

    same = dropt("reproduce", path, "--json")
    assert same.returncode == 0, same.stderr
    found = json.loads(same.stdout)
    assert found["epochs"] == 6
    assert found["difference"] <= found["allowed"] < 1e-3
    assert found["rounding"] > 0.0

    other = json.loads(path.read_text())
    other["trial"]["seed"] += 1
    path.write_text(json.dumps(other))
    another = dropt("reproduce", path)
    assert another.returncode == 1
    assert "ANOTHER curve over 6 epochs" in another.stdout


def test_uploaded_data_travels_with_the_capsule(tmp_path: Path) -> None:
    csv = tmp_path / "points.csv"
    rows = [f"{i % 7},{i % 5},{'yes' if i % 7 > i % 5 else 'no'}" for i in range(300)]
    csv.write_text("\n".join(["a,b,larger", *rows]))
    with serving(tmp_path / "state") as service, service.client() as client:
        client.add_dataset(csv, name="points", target="larger")
        trial = trial_of(client, "points")
        dropt("capsule", trial.id, "--to", tmp_path / "kept", "--server", service.url)
    path = tmp_path / "kept" / f"{trial.id}.json"
    done = dropt("reproduce", path)
    assert done.returncode == 0, done.stderr
    assert "The same curve over 6 epochs" in done.stdout
    next((tmp_path / "kept").glob("*.npz")).unlink()
    lost = dropt("reproduce", path)
    assert lost.returncode == 2
    assert "data set 'points' is not here" in lost.stderr
    assert "Traceback" not in lost.stderr
