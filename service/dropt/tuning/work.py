"""Leases as workers read them: everything that the trials of one pack share, and each trial."""

import hashlib
import json

from dropt.spec.job import LOSS_OF, JobSpec
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

TESTED: tuple[Step, ...] = ("compare", "ablate")


def inspection_key(spec: JobSpec) -> str:
    """Digest of what an inspection depends on: the same key needs no second look."""
    training = spec.training.model_dump(include={"batch_size", "loss", "optimizer", "precision"})
    split = None if spec.dataset.split is None else spec.dataset.split.model_dump()
    parts = [spec.model.model_dump(), spec.dataset.name, spec.dataset_sha256, split, training]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def inspection_request(job: JobRow, *, uploaded: bool) -> dict[str, object]:
    """What is stored of an inspection to be made: the lease that a worker will get of it."""
    return {**_look(job.spec, uploaded=uploaded), "job": job.id}


def look_request(spec: JobSpec, *, uploaded: bool) -> dict[str, object]:
    """The same for a look that no job asked for, with what tells who can do it."""
    asked = {"job": "", "spec": spec.model_dump(mode="json", by_alias=True)}
    return {**_look(spec, uploaded=uploaded), **asked}


def can_do(registration: Registration, spec: JobSpec, *, content: object) -> bool:
    """Whether a worker offers model and loss of a job and has, or can fetch, its data set."""
    dataset, sha256, loss = spec.dataset.name, spec.dataset_sha256, spec.training.loss
    has_model = any(offer.name == spec.model.name for offer in registration.models)
    has_loss = loss in LOSS_OF.values() or any(o.name == loss for o in registration.losses)
    has_data = any(
        offer.name == dataset and offer.sha256 == sha256 for offer in registration.datasets
    )
    can_fetch = content is not None and "npz" in registration.dataset_formats
    return has_model and has_loss and (has_data or can_fetch)


def leased_model(job: JobRow) -> LeasedModel:
    """The model of a job, with the fingerprint that it was inspected with."""
    fingerprint = None if job.space is None else job.space.fingerprint
    return LeasedModel(name=job.spec.model.name, args=job.spec.model.args, fingerprint=fingerprint)


def leased_dataset(job: JobRow, *, uploaded: bool) -> LeasedDataset:
    """The data set of a job as a worker finds it: its own, or behind `content`."""
    return _dataset(job.spec, uploaded=uploaded)


def inspect_lease(lease: LeaseRow, row: InspectionRow) -> Lease:
    """A lease to look at a model."""
    return Lease.model_validate(
        {**row.request, "id": lease.id, "kind": "inspect", "expires_in": lease.expires_in_s,
         "phase": "preparing"}
    )  # fmt: skip


def train_lease(
    lease: LeaseRow, job: JobRow, step: Step, rows: list[TrialRow], *, uploaded: bool
) -> Lease:
    """A lease to train a pack; only the comparison and what follows read the test split."""
    assert job.space is not None  # trials exist once there is a space
    splits: tuple[SplitName, ...] = ("train", "validation")
    return Lease(
        id=lease.id,
        kind="train",
        expires_in=lease.expires_in_s,
        job=job.id,
        phase="search" if step == "search" else "evidence",
        step=step,
        model=leased_model(job),
        dataset=leased_dataset(job, uploaded=uploaded),
        training=job.spec.training,
        objective=job.spec.objective,
        slots=lease.slots,
        columns=site_kinds(job.space, job.spec.search),
        rungs=job_rungs(job) if step == "search" else (),
        score=(*splits, "test") if step in TESTED else splits,
        per_example=step in TESTED,
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


def _look(spec: JobSpec, *, uploaded: bool) -> dict[str, object]:
    return {
        "key": inspection_key(spec),
        "model": LeasedModel(name=spec.model.name, args=spec.model.args).model_dump(),
        "dataset": _dataset(spec, uploaded=uploaded).model_dump(),
        "training": spec.training.model_dump(),
        "objective": spec.objective.model_dump(),
    }


def _dataset(spec: JobSpec, *, uploaded: bool) -> LeasedDataset:
    name = spec.dataset.name
    return LeasedDataset(
        name=name,
        sha256=spec.dataset_sha256,
        content=f"/v1/datasets/{name}/content" if uploaded else None,
        task=spec.task,
        split=spec.dataset.split,
    )
