"""What one service process holds: the database, the artifacts, and the samplers in memory."""

import threading
from dataclasses import dataclass, field

from dropt.spec.ids import JobId
from dropt.spec.webhooks import WebhookRules
from dropt.storage import measurements, trials
from dropt.storage.engine import Database
from dropt.storage.files import ArtifactStore
from dropt.storage.jobs import JobRow
from dropt.tuning.bell import Bell
from dropt.tuning.pruning import rung_epochs
from dropt.tuning.sampling import ArmMemory, Known
from dropt.tuning.screened import ScreenedMemory, Stages, screening_rung

Memory = ArmMemory | ScreenedMemory


@dataclass(frozen=True)
class Idempotency:
    """What makes a repeated request the same one: its path, its key and its body."""

    path: str
    key: str
    body_sha256: str


@dataclass(frozen=True)
class Quotas:
    """What one project may have open at a time."""

    queued_jobs: int = 100
    running_jobs: int = 20
    open_trials: int = 500_000


@dataclass
class Service:
    """The parts that every use case needs; built once, when the application is created.

    The samplers are a copy of what the tables say: `forget` drops the copy of a job, the next
    `memory` builds it again.
    """

    database: Database
    artifacts: ArtifactStore
    lease_s: float = 30.0
    heartbeat_s: float = 10.0
    webhooks: WebhookRules = field(default_factory=WebhookRules)
    quotas: Quotas = Quotas()
    wake: threading.Event = field(default_factory=threading.Event, init=False)
    bell: Bell = field(default_factory=Bell, init=False)
    _memories: dict[tuple[JobId, str], Memory] = field(default_factory=dict, init=False)
    _job_locks: dict[JobId, threading.RLock] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def job_lock(self, job_id: JobId) -> threading.RLock:
        """The lock under which trials of this job are asked for and issued."""
        with self._lock:
            return self._job_locks.setdefault(job_id, threading.RLock())

    def memory(self, job: JobRow, arm: str) -> Memory:
        """The sampler of one arm, built from the tables when it is not in memory."""
        with self.job_lock(job.id):
            key = (job.id, arm)
            if key not in self._memories:
                self._memories[key] = self._built(job, arm)
            return self._memories[key]

    def forget(self, job_id: JobId) -> None:
        """Drop the samplers of a job: after its end, or when a transaction did not commit."""
        with self.job_lock(job_id):
            for key in [key for key in self._memories if key[0] == job_id]:
                del self._memories[key]

    def known(self, job: JobRow, rows: list[trials.TrialRow]) -> list[Known]:
        """Search trials of a job as samplers and studies learn of them, with their rungs."""
        if not rows:
            return []
        with self.database.reading() as session:
            rungs = measurements.rungs_of(session, [row.id for row in rows], project=job.project)
        return [Known.of(row, rungs.get(row.id)) for row in rows]

    def _built(self, job: JobRow, arm: str) -> Memory:
        assert job.space is not None  # a job that searches has one
        with self.database.reading() as session:
            rows = trials.list_of(session, job.id, project=job.project, arm=arm, phase="search")
        space, search, direction = job.space, job.spec.search, job.spec.objective.direction
        target, known = job.spec.budget.trials, self.known(job, rows)
        if Stages.of(space, search, arm) is None:
            return ArmMemory(space, arm, search, direction=direction, target=target, known=known)
        rung = screening_rung(rung_epochs(search.pruner, job.spec.training.epochs))
        return ScreenedMemory(
            space, arm, search, direction=direction, target=target, rung=rung, known=known
        )
