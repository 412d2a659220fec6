"""Artifacts: which files there are, by digest, and which trial refers to which."""

import logging
from datetime import timedelta

from sqlalchemy import delete, select, update

from dropt.storage.clock import now, now_expression
from dropt.storage.insertion import insert_or_ignore
from dropt.storage.session import Session
from dropt.storage.tables import artifact, dataset, trial_artifact

logger = logging.getLogger(__name__)


def record(session: Session, sha256: str, n_bytes: int, *, project: str) -> bool:
    """Note that the file is there; False when it was noted before, which counts anew."""
    start = insert_or_ignore(session, artifact).values(
        project=project, sha256=sha256, bytes=n_bytes, created_at=now_expression()
    )
    is_new = session.scalars(start.returning(artifact.c.sha256)).one_or_none() is not None
    if not is_new:  # what is about to be referred to must not be swept as unused
        is_it = (artifact.c.project == project, artifact.c.sha256 == sha256)
        session.execute(update(artifact).where(*is_it).values(created_at=now_expression()))
    logger.debug("artifact.recorded", extra={"sha256": sha256, "is_new": is_new})
    return is_new


def exists(session: Session, sha256: str, *, project: str) -> bool:
    """Whether this project has the file."""
    wanted = (artifact.c.sha256 == sha256, artifact.c.project == project)
    return session.scalars(select(artifact.c.sha256).where(*wanted)).one_or_none() is not None


def attach(session: Session, trial_id: str, role: str, sha256: str, *, project: str) -> None:
    """Let a trial refer to a file; what is attached first in a role stays."""
    session.execute(
        insert_or_ignore(session, trial_artifact).values(
            trial_id=trial_id, role=role, project=project, sha256=sha256
        )
    )


def of_trial(session: Session, trial_id: str, *, project: str) -> dict[str, str]:
    """The digests of the files of a trial, by role."""
    wanted = (trial_artifact.c.trial_id == trial_id, trial_artifact.c.project == project)
    rows = session.execute(select(trial_artifact).where(*wanted).order_by(trial_artifact.c.role))
    return {row.role: row.sha256 for row in rows}


def is_known(session: Session, sha256: str) -> bool:
    """Whether any project has the file."""
    wanted = select(artifact.c.sha256).where(artifact.c.sha256 == sha256)
    return session.scalars(wanted.limit(1)).first() is not None


def forget_unused(session: Session, unused_s: float) -> int:
    """Forget files of all projects to which nothing refers, noted `unused_s` ago; how many."""
    by_trial = select(1).where(
        trial_artifact.c.sha256 == artifact.c.sha256,
        trial_artifact.c.project == artifact.c.project,
    )
    by_dataset = select(1).where(
        dataset.c.sha256 == artifact.c.sha256, dataset.c.project == artifact.c.project,
        dataset.c.kind == "uploaded",
    )  # fmt: skip
    gone = (
        delete(artifact)
        .where(artifact.c.created_at <= now(session) - timedelta(seconds=unused_s))
        .where(~by_trial.exists(), ~by_dataset.exists())
        .returning(artifact.c.sha256)
    )
    return len(session.scalars(gone).all())
