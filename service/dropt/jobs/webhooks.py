"""Webhooks: what listeners are told, signed, until they take it or a day has passed.

The form is that of Standard Webhooks 1.0: `webhook-id`, `webhook-timestamp`, and
`webhook-signature`, `v1,` and the base64 of HMAC-SHA256 over `<id>.<timestamp>.<body>`.
"""

import base64
import binascii
import hashlib
import hmac
import logging
from dataclasses import dataclass

import httpx2 as httpx

from dropt.errors import NotFound
from dropt.jobs.listeners import NoAddress, Target, resolve
from dropt.storage import clock, events, jobs, webhooks
from dropt.storage.webhooks import WebhookRow
from dropt.tuning.service import Service

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0  # for a listener to take a message
FIRST_RETRY_S, LAST_RETRY_S, FACTOR = 5.0, 3600.0, 4.0
BATCH = 20  # deliveries at a time; one of a job
PREFIX = "whsec_"  # a secret in base64, as Standard Webhooks writes it


@dataclass(frozen=True)
class Message:
    """One request to a listener."""

    url: str
    content: bytes
    headers: dict[str, str]


def deliver_due(service: Service) -> int:
    """Try what is due, at most `BATCH`; how many."""
    with service.database.reading() as session:
        if not webhooks.is_due(session):
            return 0
    with service.database.writing() as session:
        due = webhooks.claim_due(session, BATCH)
    for row in due:
        _deliver(service, row)
    return len(due)


def retry_in_s(attempts: int) -> float:
    """Seconds until the next attempt: 5, 20, 80, ... up to an hour."""
    return min(LAST_RETRY_S, FIRST_RETRY_S * FACTOR ** min(attempts - 1, 10))


def signature(secret: str, webhook_id: str, timestamp: int, content: bytes) -> str:
    """What a listener computes as well, with the secret that it shares with the service."""
    signed = f"{webhook_id}.{timestamp}.".encode() + content
    digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    if secret.startswith(PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def _deliver(service: Service, row: WebhookRow) -> None:
    problem: str | None
    try:
        message = _message(service, row)
        problem = _send(resolve(service.webhooks, message.url), message)
    except NotFound:  # the job was deleted, or has no listener any more
        problem = "nobody listens"
    except (NoAddress, httpx.TransportError, httpx.InvalidURL) as error:
        problem = f"{type(error).__name__}: {error}"[:500]
    with service.database.writing() as session:
        if problem is None:
            webhooks.set_delivered(session, row.id, project=row.project)
            return
        wait_s = retry_in_s(row.attempts)
        state = webhooks.set_failed(
            session, row.id, project=row.project, problem=problem, retry_in_s=wait_s
        )
    logger.warning("webhook.failed", extra={"webhook": row.id, "job": row.job_id, "state": state})


def _message(service: Service, row: WebhookRow) -> Message:
    """The request of a delivery, signed now."""
    with service.database.reading() as session:
        job = jobs.get(session, row.job_id, project=row.project)
        event = events.get(session, row.job_id, row.sequence, project=row.project)
        timestamp = int(clock.epoch_now(session))
    if job.notify is None or job.notify_secret is None:
        raise NotFound(f"Job {job.id} has no listener")
    content = event.model_dump_json().encode()
    return Message(
        job.notify.url, content,
        {
            "Content-Type": "application/json", "User-Agent": "dropt",
            "webhook-id": row.id, "webhook-timestamp": f"{timestamp}",
            "webhook-signature": signature(job.notify_secret, row.id, timestamp, content),
        },
    )  # fmt: skip


def _send(target: Target, message: Message) -> str | None:
    """Why the listener did not take it, None when it did. Redirects are not followed."""
    headers = {"Host": target.parts.netloc, **message.headers}
    extensions = {"sni_hostname": target.parts.hostname}
    with (
        httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
        client.stream(
            "POST", target.url, content=message.content, headers=headers, extensions=extensions
        ) as answer,
    ):
        return None if answer.is_success else f"the listener answered {answer.status_code}"
