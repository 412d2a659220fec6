"""Jobs on reference models end with a verdict: real processes, shipped data of each kind."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.processes import finished, serving

from dropt.client import Client
from dropt.spec.job import JobCreate
from dropt.spec.results import JobRead

pytestmark = pytest.mark.slow

SHORT: dict[str, Any] = {
    "budget": {"trials": 2}, "training": {"epochs": 1, "batch_size": 128},
    "evidence": {"effort": "quick"},
    "compare": {"arms": ["without", "with"]},
}  # fmt: skip
CONVOLUTIONS = {"stages.0.0.relu1:out", "stages.0.0.relu2:out", "stages.1.0.relu1:out"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    state = tmp_path_factory.mktemp("reference") / "state"
    with serving(state, workers=2) as running, running.client() as client:
        yield client


def carried_out(client: Client, **body: Any) -> JobRead:
    job = finished(client, client.create_job(JobCreate.model_validate(SHORT | body)).id)
    assert job.state == "succeeded", job.reason
    return job


def sites(client: Client, job: JobRead) -> dict[str, str | None]:
    """The kind at each site of the best dropout that was found or left out."""
    return {one.site: one.kind for one in client.get_best(job.id).recommended.sites}


def test_a_recurrent_model_on_masked_vectors_gets_a_verdict(client: Client) -> None:
    model = {"name": "lstm", "args": {"hidden": 8}}
    job = carried_out(client, model=model, dataset="japanese_vowels")
    assert client.get_verdict(job.id).examples == 370
    assert set(sites(client, job)) == {"rnn:in", "rnn:out", "rnn:dropout", "head:in"}


def test_a_transformer_that_tells_the_next_token_is_judged_by_sonnet(client: Client) -> None:
    model = {"name": "transformer", "args": {"width": 8, "feedforward": 8, "depth": 1}}
    job = carried_out(client, model=model, dataset="sonnets")
    verdict = client.get_verdict(job.id)
    assert (verdict.metric, verdict.examples) == ("nll", 94)
    assert [one.name for one in verdict.secondary] == ["accuracy"]
    assert {"embedding.content:out", "blocks.0.attention:dropout"} < set(sites(client, job))
    assert job.spec.training.metrics == ("nll", "accuracy", "perplexity")


def test_convolutions_beside_batch_norm_can_be_switched_on(client: Client) -> None:
    search = {"sites": [{"match": "stages.*relu*:out", "kinds": ["channel"]}]}
    job = carried_out(client, model="resnet", dataset="digits", search=search)
    assert set(sites(client, job)) == CONVOLUTIONS


def test_a_table_model_on_tokens_fails_with_what_would_fit(client: Client) -> None:
    job = client.create_job(JobCreate.model_validate({"model": "mlp", "dataset": "splice"}))
    job = finished(client, job.id)
    assert job.state == "failed"
    assert "takes one tensor of numbers" in str(job.reason)
    assert "lstm, gru, transformer" in str(job.reason)
