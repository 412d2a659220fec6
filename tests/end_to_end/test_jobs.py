"""Whole jobs through real processes: a service, workers, HTTP, SQLite, real data and models."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from tests.processes import BIN, Service, finished, serving, until

from dropt.client import Client
from dropt.spec.job import JobCreate
from dropt.spec.results import JobRead

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "budget": {"trials": 6},
    "training": {"epochs": 6},
    "evidence": {"effort": "quick"},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("e2e") / "state", workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with service.client() as client:
        yield client


def carried_out(client: Client, body: dict[str, Any]) -> JobRead:
    return finished(client, client.create_job(JobCreate.model_validate(body)).id)


def test_two_fields_become_an_answer(service: Service, client: Client) -> None:
    body = json.dumps({"model": "mlp", "dataset": "digits", **QUICK}).encode()
    request = Request(
        f"{service.url}/v1/jobs", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urlopen(request) as answer:
        accepted = json.load(answer)
        location = answer.headers["Location"]
        status = answer.status
    assert status == 202
    assert location == f"/v1/jobs/{accepted['id']}"
    assert accepted["spec"]["search"]["also"]["lr"] == {"low": 3e-4, "high": 3e-2, "log": True}
    assert accepted["spec"]["objective"]["metric"] == "nll"

    job = finished(client, accepted["id"])
    assert job.state == "succeeded", job.reason
    verdict, best = client.get_verdict(job.id), client.get_best(job.id)
    assert verdict.verdict in ("helps", "hurts", "no_measurable_difference", "undecided")
    assert not verdict.provisional
    assert verdict.effect is not None
    assert verdict.interval is not None
    assert verdict.interval[0] <= verdict.effect <= verdict.interval[1]
    means = {arm.arm: arm.mean for arm in verdict.arms}
    assert means["with"] is not None
    assert means["without"] is not None
    assert verdict.effect == pytest.approx(means["without"] - means["with"], abs=1e-9)
    assert best.recommended.arm == ("with" if verdict.verdict == "helps" else "without")
    assert [site.site for site in best.recommended.sites] == [
        "layers.0:in", "layers.1:out", "layers.3:out",
    ]  # fmt: skip
    assert [one.site for one in best.never_dropped] == ["layers.4:out"]

    shown = subprocess.run(
        [BIN / "dropt", "show", job.id, "--server", service.url],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert verdict.summary in shown
    for site in best.recommended.sites:
        line = next(line for line in shown.splitlines() if site.site in line)
        assert (f"{100 * site.rate:g} %" if site.rate else "  0") in line


def test_trials_are_as_many_as_asked_for_and_both_arms_have_their_own_budget(
    client: Client,
) -> None:
    job = carried_out(client, {"model": "mlp", "dataset": "digits", **QUICK})
    trials = list(client.iterate_trials(job.id))
    for arm in ("without", "with"):
        mine = [t for t in trials if (t.arm, t.phase) == (arm, "search")]
        assert sorted(t.number for t in mine) == list(range(6))
        assert all(t.state in ("completed", "pruned") for t in mine)
    first = next(t for t in trials if (t.arm, t.phase, t.number) == ("with", "search", 0))
    assert {site: dropout.rate for site, dropout in first.sites.items()} == {
        "layers.0:in": 0.2, "layers.1:out": 0.2, "layers.3:out": 0.2,
    }  # fmt: skip


def test_seeds_of_the_evidence_are_fresh_and_paired(client: Client) -> None:
    job = carried_out(
        client, {"model": "mlp", "dataset": "digits", **QUICK, "search": {"seed": 5}}
    )
    trials = list(client.iterate_trials(job.id))
    seeds = {
        phase: {t.seed for t in trials if t.phase == phase}
        for phase in ("search", "shortlist", "compare")
    }
    assert not seeds["search"] & seeds["shortlist"]
    assert not seeds["search"] & seeds["compare"]
    assert not seeds["shortlist"] & seeds["compare"]
    by_arm = {
        arm: [t.seed for t in trials if (t.phase, t.arm) == ("compare", arm)]
        for arm in ("without", "with", "textbook")
    }
    assert by_arm["without"] == by_arm["with"] == by_arm["textbook"]
    assert all("test" not in t.values for t in trials if t.phase != "compare")


@pytest.mark.parametrize(
    ("model", "dataset"), [("cnn", "digits"), ("mlp", "breast_cancer"), ("mlp", "mnist10k")]
)
def test_each_model_and_data_set_gives_a_verdict(client: Client, model: str, dataset: str) -> None:
    job = carried_out(client, {"model": model, "dataset": dataset, **QUICK})
    assert job.state == "succeeded", job.reason
    assert client.get_verdict(job.id).verdict != "not_tested"


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_csv_file_gives_a_verdict(service: Service, tmp_path: Path, task: str) -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=(600, 4))
    target = x @ [1.0, -2.0, 0.5, 0.0] + generator.normal(size=600)
    text = np.where(target > 0, "yes", "no") if task == "classification" else target
    file = tmp_path / f"{task}.csv"
    rows = ["a,b,c,d,label"]
    rows += [
        ",".join([*(f"{v:.5f}" for v in row), str(y)]) for row, y in zip(x, text, strict=True)
    ]
    file.write_text("\n".join(rows) + "\n")
    done = subprocess.run(
        [BIN / "dropt", "run", "--model", "mlp", "--dataset", file, "--target", "label",
         "--trials", "6", "--epochs", "6", "--effort", "quick", "--server", service.url],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "never dropped (output layer)" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_dashboard_shows_true_rates_and_changes_nothing(
    service: Service, client: Client
) -> None:
    job = carried_out(client, {"model": "mlp", "dataset": "digits", **QUICK})
    with urlopen(f"{service.url}/dashboard/") as page:
        assert page.status == 200
    assert job.verdict is not None
    word = job.verdict.replace("_", " ")
    until(lambda: word in _study(service, job.id)["note"]["body"], what="the note to be written")
    studies = _studies(service)
    study = next(s for s in studies if s["study_name"] == f"{job.id}/with")
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"{service.url}/api/studies/{study['study_id']}", method="DELETE"))
    assert refused.value.code == 405
    assert _studies(service) == studies
    detail = _study(service, job.id)
    searched = [t for t in client.iterate_trials(job.id) if t.phase == "search"]
    trials = {t.number: t for t in searched if t.arm == "with"}
    for shown in detail["trials"]:
        ours = trials[shown["number"]]
        rates = {
            p["name"]: float(p["param_external_value"]) for p in shown["params"]
            if p["name"].startswith("rate/")
        }  # fmt: skip
        assert rates == {
            f"rate/{site}": ours.sites[site].rate if site in ours.sites else 0.0
            for site in ("layers.0:in", "layers.1:out", "layers.3:out")
        }


def _study(service: Service, job_id: str) -> dict[str, Any]:
    """What the dashboard is told of the study of the arm `with`."""
    named = (s for s in _studies(service) if s["study_name"] == f"{job_id}/with")
    with urlopen(f"{service.url}/api/studies/{next(named)['study_id']}?after=0") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _studies(service: Service) -> list[dict[str, Any]]:
    with urlopen(f"{service.url}/api/studies") as answer:
        found: list[dict[str, Any]] = json.load(answer)["study_summaries"]
    return found
