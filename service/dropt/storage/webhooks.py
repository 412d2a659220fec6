"""The outbox of webhooks: what a listener is to be told, until it has taken it or time is up."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import insert, select, update

from dropt.spec.ids import JobId, new_id
from dropt.storage.clock import epoch_expression, now_expression
from dropt.storage.session import Session
from dropt.storage.tables import webhook

State = Literal["waiting", "delivered", "failed"]

EXPIRES_S = 24 * 3600.0  # a listener that was away for a day is given up
CLAIM_S = 60.0  # a process that dies in mid-delivery delays it so long, and nothing is lost


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """One delivery as it is stored; `attempts` counts those that have begun."""

    id: str
    project: str
    job_id: JobId
    sequence: int
    state: State
    attempts: int
    due_at: float
    expires_at: float
    problem: str | None
    created_at: datetime


def add(session: Session, job_id: str, sequence: int, *, project: str) -> None:
    """Let an event be told, due at once."""
    session.execute(
        insert(webhook).values(
            id=new_id("whk"), project=project, job_id=job_id, sequence=sequence, state="waiting",
            attempts=0, due_at=epoch_expression(), expires_at=epoch_expression() + EXPIRES_S,
            created_at=now_expression(),
        )
    )  # fmt: skip


def is_due(session: Session) -> bool:
    """Whether any delivery of any project may be tried."""
    due = (webhook.c.state == "waiting", webhook.c.due_at <= epoch_expression())
    return session.scalars(select(webhook.c.id).where(*due).limit(1)).first() is not None


def claim_due(session: Session, limit: int) -> list[WebhookRow]:
    """Take up to `limit` deliveries of all projects that are due, oldest first: attempts + 1.

    They are due again after `CLAIM_S` unless their end is stored before. Of each job only the
    first that waits is taken, so that a listener hears events in their order.
    """
    earlier = webhook.alias()
    is_first = ~(
        select(1)
        .where(
            earlier.c.job_id == webhook.c.job_id, earlier.c.state == "waiting",
            earlier.c.sequence < webhook.c.sequence,
        )
        .exists()
    )  # fmt: skip
    due = (
        select(webhook.c.id)
        .where(webhook.c.state == "waiting", webhook.c.due_at <= epoch_expression(), is_first)
        .order_by(webhook.c.due_at, webhook.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    claimed = (
        update(webhook)
        .where(webhook.c.id.in_(session.scalars(due).all()))
        .values(attempts=webhook.c.attempts + 1, due_at=epoch_expression() + CLAIM_S)
        .returning(*webhook.c)
    )
    rows = [WebhookRow(**row._asdict()) for row in session.execute(claimed)]
    return sorted(rows, key=lambda row: row.id)


def set_delivered(session: Session, webhook_id: str, *, project: str) -> None:
    """The listener has taken it."""
    _change(session, webhook_id, project, state="delivered", problem=None)


def set_failed(
    session: Session, webhook_id: str, *, project: str, problem: str, retry_in_s: float
) -> State:
    """An attempt has failed: it waits for the next, or is given up a day after its event."""
    of_this = (webhook.c.id == webhook_id, webhook.c.project == project)
    is_over = webhook.c.expires_at <= epoch_expression() + retry_in_s
    over = session.scalars(select(is_over).where(*of_this)).one_or_none()
    state: State = "failed" if over else "waiting"
    _change(session, webhook_id, project, state=state, problem=problem, retry_in_s=retry_in_s)
    return state


def list_of(session: Session, job_id: str, *, project: str) -> list[WebhookRow]:
    """The deliveries of a job in the order of its events."""
    wanted = (webhook.c.job_id == job_id, webhook.c.project == project)
    rows = session.execute(select(webhook).where(*wanted).order_by(webhook.c.sequence))
    return [WebhookRow(**row._asdict()) for row in rows]


def _change(
    session: Session, webhook_id: str, project: str, *, retry_in_s: float = 0.0, **values: object
) -> None:
    session.execute(
        update(webhook)
        .where(webhook.c.id == webhook_id, webhook.c.project == project)
        .values(due_at=epoch_expression() + retry_in_s, **values)
    )
