"""Projects: the walls between users. Every row belongs to one."""

from sqlalchemy import select

from dropt.storage.clock import now_expression
from dropt.storage.insertion import insert_or_ignore
from dropt.storage.session import Session
from dropt.storage.tables import project

DEFAULT = "default"


def ensure(session: Session, name: str) -> None:
    """Create the project when it is not there."""
    session.execute(
        insert_or_ignore(session, project).values(id=name, created_at=now_expression())
    )


def lock(session: Session, name: str) -> None:
    """Let no other transaction pass here before this one ends: what is counted stays true.

    No effect on SQLite, which has one writer.
    """
    session.execute(select(project.c.id).where(project.c.id == name).with_for_update())
