"""Leases as workers read them: everything that the trials of one pack share, and each trial."""

import hashlib
import json

from dropt.spec.job import JobSpec
from dropt.spec.protocol import (
    Lease,
    LeasedDataset,
    LeasedModel,
    Registration,
    SplitName,
    Step,
    TrialAssignment,
)
from dropt.storage.inspections import InspectionRow
from dropt.storage.jobs import JobRow
from dropt.storage.leases import LeaseRow
from dropt.storage.trials import TrialRow
from dropt.tuning.configurations import site_kinds
from dropt.tuning.pruning import rung_epochs


def inspection_key(spec: JobSpec) -> str:
    """Digest of what an inspection depends on: the same key needs no second look."""
    training = spec.training.model_dump(include={"batch_size", "loss", "optimizer", "precision"})
    split = None if spec.dataset.split is None else spec.dataset.split.model_dump()
    parts = [spec.model.model_dump(), spec.dataset.name, spec.dataset_sha256, split, training]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def inspection_request(job: JobRow, *, uploaded: bool) -> dict[str, object]:
    """What is stored of an inspection to be made: the lease that a worker will get of it."""
    return {
        "job": job.id,
        "key": inspection_key(job.spec),
        "model": LeasedModel(name=job.spec.model.name, args=job.spec.model.args).model_dump(),
        "dataset": leased_dataset(job, uploaded=uploaded).model_dump(),
        "training": job.spec.training.model_dump(),
        "objective": job.spec.objective.model_dump(),
    }


def can_do(
    registration: Registration, model: str, dataset: str, sha256: str, content: object
) -> bool:
    """Whether a worker offers this model and has, or can fetch, this data set."""
    has_model = any(offer.name == model for offer in registration.models)
    has_data = any(
        offer.name == dataset and offer.sha256 == sha256 for offer in registration.datasets
    )
    return has_model and (
        has_data or (content is not None and "npz" in registration.dataset_formats)
    )


def leased_dataset(job: JobRow, *, uploaded: bool) -> LeasedDataset:
    """The data set of a job as a worker finds it: its own, or behind `content`."""
    name = job.spec.dataset.name
    return LeasedDataset(
        name=name,
        sha256=job.spec.dataset_sha256,
        content=f"/v1/datasets/{name}/content" if uploaded else None,
        task=job.spec.task,
        split=job.spec.dataset.split,
    )


def inspect_lease(lease: LeaseRow, row: InspectionRow) -> Lease:
    """A lease to look at a model."""
    return Lease.model_validate(
        {**row.request, "id": lease.id, "kind": "inspect", "expires_in": lease.expires_in_s,
         "phase": "preparing"}
    )  # fmt: skip


def train_lease(
    lease: LeaseRow, job: JobRow, step: Step, rows: list[TrialRow], *, uploaded: bool
) -> Lease:
    """A lease to train a pack; only the comparison may read the test split."""
    assert job.space is not None  # trials exist once there is a space
    splits: tuple[SplitName, ...] = ("train", "validation")
    return Lease(
        id=lease.id,
        kind="train",
        expires_in=lease.expires_in_s,
        job=job.id,
        phase="search" if step == "search" else "evidence",
        step=step,
        model=LeasedModel(
            name=job.spec.model.name, args=job.spec.model.args, fingerprint=job.space.fingerprint
        ),
        dataset=leased_dataset(job, uploaded=uploaded),
        training=job.spec.training,
        objective=job.spec.objective,
        slots=lease.slots,
        columns=site_kinds(job.space, job.spec.search),
        rungs=job_rungs(job) if step == "search" else (),
        score=(*splits, "test") if step == "compare" else splits,
        per_example=step == "compare",
        trials=tuple(assignment(row) for row in rows),
    )


def job_rungs(job: JobRow) -> tuple[int, ...]:
    """The epochs at which trials of the search are compared."""
    return rung_epochs(job.spec.search.pruner, job.spec.training.epochs)


def assignment(row: TrialRow) -> TrialAssignment:
    """One trial of a lease."""
    return TrialAssignment(
        id=row.id,
        arm=row.arm,
        number=row.number,
        attempt=row.attempt,
        seed=row.seed,
        epochs=row.epochs,
        params=row.params,
        sites=row.sites,
    )
