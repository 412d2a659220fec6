"""Projects: the walls between users. Every row belongs to one."""

from sqlalchemy.orm import Session

from dropt.storage.clock import now_expression
from dropt.storage.insertion import insert_or_ignore
from dropt.storage.tables import project

DEFAULT = "default"


def ensure(session: Session, name: str) -> None:
    """Create the project when it is not there."""
    session.execute(
        insert_or_ignore(session, project).values(id=name, created_at=now_expression())
    )
