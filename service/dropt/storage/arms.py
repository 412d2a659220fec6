"""Arms: the sides of a comparison, each with its own exact budget."""

import hashlib
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from sqlalchemy import Integer, bindparam, func, select

from dropt.spec.ids import JobId
from dropt.storage.session import Session
from dropt.storage.tables import arm


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm as it is stored; `issued` of `target` trials have been asked for."""

    job_id: JobId
    arm: str
    project: str
    searched: bool
    target: int
    issued: int
    study: str | None
    study_id: int | None
    winner: dict[str, Any] | None


def insert(
    session: Session,
    job_id: str,
    name: str,
    *,
    project: str,
    searched: bool,
    target: int,
    study: str | None = None,
) -> ArmRow:
    """Store a new arm of which nothing is issued."""
    values = {
        "job_id": job_id,
        "arm": name,
        "project": project,
        "searched": searched,
        "target": target,
        "issued": 0,
        "study": study,
    }
    row = session.execute(sqlalchemy.insert(arm).values(values).returning(*arm.c)).one()
    return ArmRow(**row._asdict())


def list_of(session: Session, job_id: str, *, project: str) -> list[ArmRow]:
    """The arms of a job, by name."""
    rows = session.execute(_OF_JOB, {"of_job": job_id, "of_project": project})
    return [ArmRow(**row._asdict()) for row in rows]


def issue(session: Session, job_id: str, name: str, k: int, *, project: str) -> bool:
    """Take `k` trials out of the budget; False, and nothing is taken, when fewer are left."""
    of = {"of_job": job_id, "of_arm": name, "of_project": project, "k": k}
    return session.scalars(_ISSUE, of).one_or_none() is not None


def close(session: Session, job_id: str, name: str, *, project: str) -> bool:
    """Give up the rest of the budget: the target becomes what is issued."""
    return _wins(session, _update(job_id, name, project).values(target=arm.c.issued))


def reopen(session: Session, job_id: str, name: str, target: int, *, project: str) -> bool:
    """Set the budget anew, and forget the configuration that was compared; never below issued."""
    new = _update(job_id, name, project).where(arm.c.issued <= target)
    return _wins(session, new.values(target=target, winner=None))


def set_winner(session: Session, job_id: str, name: str, winner: object, *, project: str) -> bool:
    """Store the configuration that the comparison trains."""
    return _wins(session, _update(job_id, name, project).values(winner=winner))


def set_study_id(session: Session, job_id: str, name: str, study_id: int, *, project: str) -> bool:
    """Store the id that Optuna gave to the study."""
    return _wins(session, _update(job_id, name, project).values(study_id=study_id))


def study_ids(session: Session, *, project: str) -> frozenset[int]:
    """Optuna's numbers of the studies of a project."""
    wanted = (arm.c.project == project, arm.c.study_id.is_not(None))
    return frozenset(session.scalars(select(arm.c.study_id).where(*wanted)))


# Built once: to build such a statement takes as long as to carry it out.
_OF_JOB = (
    select(arm)
    .where(arm.c.job_id == bindparam("of_job"), arm.c.project == bindparam("of_project"))
    .order_by(arm.c.arm)
)


def try_lock(session: Session, job_id: str, name: str) -> bool:
    """Be the one that schedules this arm until the transaction ends; False when another is.

    PostgreSQL: an advisory lock of the transaction that writes our rows; a session lock can be
    lost with its connection unnoticed. SQLite has one service process, and a writing
    transaction has the database.
    """
    if session.dialect.name == "sqlite":
        return True
    digest = hashlib.sha256(f"{job_id}/{name}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    won: bool = session.scalars(select(func.pg_try_advisory_xact_lock(key))).one()
    return won


def _update(job_id: str, name: str, project: str) -> sqlalchemy.Update:
    return sqlalchemy.update(arm).where(
        arm.c.job_id == job_id, arm.c.arm == name, arm.c.project == project
    )


def _wins(session: Session, statement: sqlalchemy.Update) -> bool:
    return session.scalars(statement.returning(arm.c.arm)).one_or_none() is not None


_ISSUE = (
    sqlalchemy.update(arm)
    .where(arm.c.job_id == bindparam("of_job"), arm.c.arm == bindparam("of_arm"))
    .where(arm.c.project == bindparam("of_project"))
    .where(arm.c.issued + bindparam("k", type_=Integer) <= arm.c.target)
    .values(issued=arm.c.issued + bindparam("k", type_=Integer))
    .returning(arm.c.arm)
)
