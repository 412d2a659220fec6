"""Jobs: what users submit. A change of state is a conditional update that says whether it won."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy import JSON, ColumnElement, bindparam, func, literal, select, tuple_, type_coerce

from dropt.errors import NotFound
from dropt.spec.ids import JobId, new_id
from dropt.spec.job import JobSpec
from dropt.spec.results import (
    FINAL_JOB_STATES,
    EndedBy,
    Failure,
    JobState,
    Phase,
    StopRequest,
    VerdictRead,
    VerdictWord,
)
from dropt.spec.space import Space
from dropt.spec.webhooks import Notify
from dropt.storage.clock import now_expression
from dropt.storage.columns import UtcTime
from dropt.storage.session import Session
from dropt.storage.tables import job


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job as it is stored."""

    id: JobId
    project: str
    revision: int
    name: str
    labels: dict[str, str]
    priority: int
    model: str
    dataset: str
    state: JobState
    phase: Phase | None
    ended_by: EndedBy | None
    reason: str | None
    spec: JobSpec
    inspection_id: str | None
    space: Space | None
    min_effect: float | None
    detectable_effect: float | None
    warnings: tuple[str, ...]
    failure: Failure | None
    verdict: VerdictRead | None
    verdict_word: VerdictWord | None
    event_sequence: int
    created_at: datetime
    started_at: datetime | None
    search_started_at: datetime | None
    search_ended_at: datetime | None
    finished_at: datetime | None
    verdict_attempt: int = 1
    stop: StopRequest | None = None
    paused_seconds: float = 0.0
    paused_at: datetime | None = None
    cloned_from: str | None = None
    notify: Notify | None = None
    notify_secret: str | None = field(default=None, repr=False)

    @property
    def is_done(self) -> bool:
        return self.state in FINAL_JOB_STATES

    def has_aims_of(self, earlier: "JobRow") -> bool:
        """Whether nobody has extended or stopped the job since it was read as `earlier`."""
        return (self.verdict_attempt, self.spec.budget, self.stop) == (
            earlier.verdict_attempt, earlier.spec.budget, earlier.stop,
        )  # fmt: skip


def insert(
    session: Session,
    spec: JobSpec,
    *,
    project: str,
    name: str,
    labels: Mapping[str, str],
    priority: int,
    reason: str | None = None,
    warnings: Collection[str] = (),
    **more: Any,
) -> JobRow:
    """Store a new job, `queued`; `more` are further columns."""
    values: dict[str, Any] = {
        "id": new_id("job"),
        "project": project,
        "revision": 1,
        "name": name,
        "labels": dict(labels),
        "priority": priority,
        "model": spec.model.name,
        "dataset": spec.dataset.name,
        "state": "queued",
        "reason": reason,
        "spec": spec,
        "warnings": tuple(warnings),
        "event_sequence": 0,
        "created_at": now_expression(),
        **more,
    }
    row = session.execute(sqlalchemy.insert(job).values(values).returning(*job.c)).one()
    return JobRow(**row._asdict())


def get(session: Session, job_id: str, *, project: str) -> JobRow:
    """The job of that id.

    Raises:
        NotFound: no such job, or another project's.
    """
    return _only(session, job_id, project=project, locked=False)


def lock(session: Session, job_id: str, *, project: str) -> JobRow:
    """The same, and no other transaction changes the job before this one ends.

    One lock order, job before trials, or transactions deadlock on PostgreSQL. No effect on
    SQLite, where a writing transaction has the database.

    Raises:
        NotFound: no such job, or another project's.
    """
    return _only(session, job_id, project=project, locked=True)


def list_page(
    session: Session,
    *,
    project: str,
    limit: int,
    state: Iterable[JobState] = (),
    model: str | None = None,
    dataset: str | None = None,
    label: Collection[tuple[str, str]] = (),
    created_after: datetime | None = None,
    after: tuple[datetime, str] | None = None,
    has_verdict: bool = False,
) -> list[JobRow]:
    """At most `limit` jobs, newest first, that fit every filter given.

    `after` is (created_at, id) of the last job of the page before.
    """
    wanted = [job.c.project == project]
    if chosen := tuple(state):
        wanted.append(job.c.state.in_(chosen))
    if model is not None:
        wanted.append(job.c.model == model)
    if dataset is not None:
        wanted.append(job.c.dataset == dataset)
    if created_after is not None:
        wanted.append(job.c.created_at > created_after)
    if has_verdict:
        wanted.append(job.c.verdict_word.is_not(None))
    wanted += [_has_label(session, name, value) for name, value in label]
    if after is not None:
        mark = tuple_(literal(after[0], UtcTime), literal(after[1]))
        wanted.append(tuple_(job.c.created_at, job.c.id) < mark)
    newest_first = (job.c.created_at.desc(), job.c.id.desc())
    rows = session.execute(select(job).where(*wanted).order_by(*newest_first).limit(limit))
    return [JobRow(**row._asdict()) for row in rows]


def active(session: Session) -> list[JobRow]:
    """The jobs of all projects that are not done: higher priority first, then older first."""
    rows = session.execute(
        select(job)
        .where(job.c.state.not_in(FINAL_JOB_STATES))
        .order_by(job.c.priority.desc(), job.c.created_at, job.c.id)
    )
    return [JobRow(**row._asdict()) for row in rows]


def count(session: Session, *, project: str, state: Iterable[JobState]) -> int:
    """How many jobs of the project are in one of these states."""
    wanted = (job.c.project == project, job.c.state.in_(state))
    return session.scalars(select(func.count()).select_from(job).where(*wanted)).one()


def open_specs(session: Session, *, project: str) -> list[JobSpec]:
    """The specs of the project's jobs that have not ended."""
    wanted = (job.c.project == project, job.c.state.not_in(FINAL_JOB_STATES))
    return list(session.scalars(select(job.c.spec).where(*wanted)))


def unfinished_on(session: Session, dataset: str, *, project: str) -> list[str]:
    """The ids of the jobs that have not ended and train on this data set."""
    wanted = (
        job.c.project == project, job.c.dataset == dataset, job.c.state.not_in(FINAL_JOB_STATES)
    )  # fmt: skip
    return list(session.scalars(select(job.c.id).where(*wanted).order_by(job.c.id)))


def move(
    session: Session, job_id: str, *, project: str, from_: Iterable[JobState], **values: Any
) -> bool:
    """Change columns of a job that is in one of the states `from_`; False when it is not.

    Raises the revision by 1.
    """
    changed = (
        sqlalchemy.update(job)
        .where(job.c.id == job_id, job.c.project == project, job.c.state.in_(from_))
        .values(revision=job.c.revision + 1, **values)
        .returning(job.c.id)
    )
    return session.scalars(changed).one_or_none() is not None


def update(session: Session, job_id: str, *, project: str, **values: Any) -> None:
    """Change columns of a job in whatever state it is; raises the revision by 1."""
    session.execute(
        sqlalchemy.update(job)
        .where(job.c.id == job_id, job.c.project == project)
        .values(revision=job.c.revision + 1, **values)
    )


def _only(session: Session, job_id: str, *, project: str, locked: bool) -> JobRow:
    wanted = {"of_job": job_id, "of_project": project}
    row = session.execute(_LOCKED if locked else _ONE, wanted).one_or_none()
    if row is None:
        raise NotFound(f"No job {job_id}")
    return JobRow(**row._asdict())


def _has_label(session: Session, name: str, value: str) -> ColumnElement[bool]:
    """The databases differ; a JSON path would need the name quoted, and users choose it."""
    is_sqlite = session.dialect.name == "sqlite"
    pairs = func.json_each if is_sqlite else func.json_each_text
    pair = pairs(type_coerce(job.c.labels, JSON)).table_valued(
        "key", "value", joins_implicitly=True
    )
    return select(1).where(pair.c.key == name, pair.c.value == value).correlate(job).exists()


# Built once: to build such a statement takes as long as to carry it out.
_ONE = select(job).where(job.c.id == bindparam("of_job"), job.c.project == bindparam("of_project"))
_LOCKED = _ONE.with_for_update()
