"""Inspection and preview through real processes, and the table that a user reads."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.processes import BIN, Service, serving

from dropt.client import Client
from dropt.errors import InvalidRequest
from dropt.spec.inspection import Inspection

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("previews") / "state", workers=1) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with service.client() as client:
        yield client


def test_worker_looks_at_the_model_and_the_answer_is_kept(client: Client) -> None:
    found = client.inspect_model("mlp", "digits", args={"hidden": [16]}, wait_s=60)
    assert isinstance(found, Inspection)
    assert [site.site for site in found.sites] == ["layers.0:in", "layers.1:out"]
    assert found.output_layers == ("layers.2",)
    assert found.parameters == 64 * 16 + 16 + 16 * 10 + 10
    assert [(one.site, one.reason) for one in found.excluded] == [("layers.2:out", "output_layer")]
    assert found.probe is not None
    assert client.inspect_model("mlp", "digits", args={"hidden": [16]}) == found


def test_preview_has_the_time_that_the_worker_has_measured(client: Client) -> None:
    body = {"model": "mlp", "dataset": "digits", "budget": {"trials": 8}}
    seen = client.preview_job(body, wait_s=60)
    assert seen.state == "done"
    assert seen.space is not None
    assert [group.sites for group in seen.space.groups] == [
        ("layers.0:in",), ("layers.1:out",), ("layers.3:out",),
    ]  # fmt: skip
    assert seen.estimate.device_seconds is not None
    assert seen.estimate.device_seconds > 0
    assert seen.estimate.seconds == seen.estimate.device_seconds
    assert "measured" in seen.estimate.basis


def test_model_that_cannot_be_built_is_a_problem_with_the_reason(client: Client) -> None:
    with pytest.raises(InvalidRequest) as refused:
        client.inspect_model("mlp", "digits", args={"activation": "nope"}, wait_s=60)
    assert refused.value.errors[0].code == "model-fails"
    assert "nope" in refused.value.detail
    assert "Traceback" not in refused.value.detail


def test_table_shows_sites_refused_places_and_findings(service: Service, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        return subprocess.run(
            [BIN / "dropt", "models", *arguments, "--server", service.url],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        ).stdout  # fmt: skip

    listed = run()
    assert listed.splitlines()[0].split() == ["model", "tasks", "arguments", "workers"]
    assert "hidden=[128, 64]" in listed
    shown = run("sites", "mlp", "--dataset", "digits", "--arg", "batch_norm=true")
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "output layer: " in rows["mlp"]
    assert "5 % - 70 %" in rows["layers.5:out"]
    off = [line for name, line in rows.items() if name.startswith("layers.") and " off " in line]
    assert off
    assert any("batch norm" in line for line in off)
    assert "batch-norm-downstream at " in shown
    found = json.loads(run("sites", "mlp", "--dataset", "digits", "--json"))
    assert Inspection.model_validate(found).sites
