"""A trial as it is stored, and as it is announced."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dropt.spec.ids import JobId, LeaseId, TrialId, WorkerId, new_id
from dropt.spec.protocol import Reason, TrialParams
from dropt.spec.results import TrialPhase, TrialState
from dropt.spec.space import Dropout


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial as it is stored."""

    id: TrialId
    project: str
    job_id: JobId
    arm: str
    phase: TrialPhase
    number: int
    candidate: int | None
    origin: TrialId | None
    seed_index: str
    seed: int
    epochs: int
    params: TrialParams
    rates: dict[str, float]
    sites: dict[str, Dropout]
    state: TrialState
    attempt: int
    failures: int
    losses: int
    lease_id: LeaseId | None
    worker_id: WorkerId | None
    stop_requested: bool
    value: float | None
    values: dict[str, dict[str, float | None]]
    epoch: int
    best_epoch: int | None
    reason: Reason | None
    detail: str | None
    seconds: float
    optuna_id: int | None
    mirrored: TrialState | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class NewTrial:
    """What must be said of a trial before anybody trains it."""

    job_id: JobId
    arm: str
    phase: TrialPhase
    number: int  # from 0 within job, arm and phase
    seed_index: str
    seed: int
    epochs: int
    params: TrialParams
    rates: Mapping[str, float]
    sites: Mapping[str, Dropout]
    candidate: int | None = None
    origin: TrialId | None = None
    optuna_id: int | None = None
    mirrored: TrialState | None = None
    id: TrialId = field(default_factory=lambda: TrialId(new_id("trl")))
