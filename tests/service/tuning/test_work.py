from dataclasses import replace
from typing import Any

import pytest
from tests.factories import (
    DIGEST,
    PROJECT,
    ToyWorker,
    advance_all,
    dataset,
    job_row,
    registration,
    run_until_done,
    search_lease,
    submit,
)
from tests.service.conftest import Done

from dropt.jobs import catalogue
from dropt.spec.job import JobSpec
from dropt.spec.protocol import Lease, LossOffer
from dropt.tuning.service import Service
from dropt.tuning.work import assignment, can_do, inspection_key, inspection_request


def leases(done: Done, step: str) -> list[Lease]:
    found = [lease for lease in done.worker.leases if lease.step == step]
    assert found
    return found


def test_lease_of_an_inspection_says_what_to_look_at(done: Done) -> None:
    (lease,) = [lease for lease in done.worker.leases if lease.kind == "inspect"]
    assert (lease.phase, lease.step, lease.trials) == ("preparing", None, ())
    assert (lease.model.name, lease.model.fingerprint) == ("mlp", None)
    assert (lease.dataset.name, lease.dataset.sha256) == ("digits", DIGEST)
    assert lease.training == done.job.spec.training
    assert lease.objective == done.job.spec.objective


@pytest.mark.parametrize(
    ("step", "phase", "rungs", "score", "per_example"),
    [
        ("search", "search", (1,), ("train", "validation"), False),
        ("shortlist", "evidence", (), ("train", "validation"), False),
        ("compare", "evidence", (), ("train", "validation", "test"), True),
    ],
)
def test_lease_says_what_may_be_read_in_its_step(
    done: Done,
    step: str,
    phase: str,
    rungs: tuple[int, ...],
    score: tuple[str, ...],
    per_example: bool,
) -> None:
    for lease in leases(done, step):
        assert (lease.phase, lease.rungs) == (phase, rungs)
        assert (lease.score, lease.per_example) == (score, per_example)
        assert lease.model.fingerprint == "51ab"


def test_pack_shares_its_columns_through_every_step(done: Done) -> None:
    sites = {"layers.0:in", "layers.1:out", "layers.3:out"}
    for step in ("search", "shortlist", "compare"):
        for lease in leases(done, step):
            assert set(lease.columns) == sites
            used = {site for trial in lease.trials for site in trial.sites}
            assert used <= sites


def test_trial_of_a_lease_is_the_stored_one(done: Done) -> None:
    rows = {row.id: row for row in done.trials()}
    for lease in leases(done, "search"):
        for trial in lease.trials:
            row = rows[trial.id]  # type: ignore[index]  # a TrialId
            assert assignment(replace(row, attempt=1)) == trial
            assert (trial.first_epoch, trial.checkpoint) == (1, None)


def test_data_set_that_was_uploaded_is_fetched_from_the_service(service: Service) -> None:
    content = b"canonical npz"
    digest = ToyWorker(service).put(content)
    offer = dataset("mine").model_copy(update={"sha256": digest})
    catalogue.add_dataset(service, offer, content, project=PROJECT)
    worker = ToyWorker(service)
    submit(service, dataset="mine")
    advance_all(service)
    lease = worker.lease()
    assert lease is not None
    assert (lease.dataset.sha256, lease.dataset.content) == (digest, "/v1/datasets/mine/content")
    assert catalogue.content_path(service, "mine", project=PROJECT).read_bytes() == content


def test_worker_needs_the_model_the_data_and_the_loss(done: Done) -> None:
    offer, spec = registration(), done.job.spec
    assert can_do(offer, spec, content=None)
    focal = spec.training.model_copy(update={"loss": "focal"})
    mine = spec.dataset.model_copy(update={"name": "mine"})
    for change in (
        {"model": spec.model.model_copy(update={"name": "cnn"})},
        {"dataset": mine}, {"dataset_sha256": "0" * 64}, {"training": focal},
    ):  # fmt: skip
        assert not can_do(offer, spec.model_copy(update=change), content=None)
    has_focal = offer.model_copy(update={"losses": (LossOffer(name="focal", package="own 1"),)})
    assert can_do(has_focal, spec.model_copy(update={"training": focal}), content=None)
    reads_none = offer.model_copy(update={"dataset_formats": ()})
    uploaded = spec.model_copy(update={"dataset": mine})
    assert can_do(offer, uploaded, content="mine")
    assert not can_do(reads_none, uploaded, content="mine")


def spec_of(service: Service, **fields: Any) -> JobSpec:
    return job_row(service, submit(service, **fields)).spec


def test_key_of_an_inspection_changes_with_what_it_depends_on(service: Service) -> None:
    ToyWorker(service)
    key = inspection_key(spec_of(service))
    same = {"search": {"seed": 5}, "budget": {"trials": 3}, "evidence": False}
    assert inspection_key(spec_of(service, **same)) == key
    others: list[dict[str, Any]] = [
        {"model": {"name": "mlp", "args": {"hidden": [8]}}},
        {"dataset": "houses"},
        {"dataset": {"name": "digits", "split": {"method": "hash", "seed": 1}}},
        {"training": {"batch_size": 8}},
        {"training": {"precision": "float64"}},
    ]
    keys = [inspection_key(spec_of(service, **other)) for other in others]
    assert len({key, *keys}) == 1 + len(others)


def test_request_of_an_inspection_names_where_an_upload_is(service: Service) -> None:
    _, lease = search_lease(service)
    job = job_row(service, lease.job)
    here: Any = inspection_request(job, uploaded=True)["dataset"]
    with_worker: Any = inspection_request(job, uploaded=False)["dataset"]
    assert here["content"] == "/v1/datasets/digits/content"
    assert with_worker["content"] is None


def test_split_of_the_job_reaches_the_worker(service: Service) -> None:
    split = {"method": "hash", "seed": 4, "train": 0.5, "validation": 0.25, "test": 0.25}
    worker = ToyWorker(service)
    submit(service, dataset={"name": "digits", "split": split}, evidence=False)
    run_until_done(service, worker)
    for lease in worker.leases:
        assert lease.dataset.split is not None
        assert lease.dataset.split.model_dump() == split
