"""Where a job tells its events to a listener: an address, which events, and a secret to sign."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from dropt.spec.record import Record

MAX_URL = 2_000  # characters

Url = Annotated[str, Field(max_length=MAX_URL, pattern=r"^https?://[!-~]+$")]
EventType = Literal[
    "job.state", "job.phase", "job.extended", "job.finished",
    "inspection.done", "arm.created", "search.screened", "lease.granted", "lease.lost",
    "trial.started", "trial.checkpoint", "trial.given_back", "trial.completed", "trial.pruned",
    "trial.failed", "trial.cancelled", "best.updated",
    "evidence.shortlist", "evidence.simplify", "evidence.shortlisted", "evidence.compare",
    "evidence.ablate", "verdict.updated", "warning",
]  # fmt: skip
Secret = Annotated[
    str,
    Field(
        min_length=16, max_length=200, repr=False,
        description="Signs each request; it is never shown again. `whsec_` and base64, or a text.",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class WebhookRules:
    """Where webhooks may go: hosts by name, and whether private addresses are among them."""

    hosts: frozenset[str] = frozenset()
    private: bool = False


class Notify(Record):
    """A listener as it is stored and shown."""

    url: Url
    events: Annotated[tuple[EventType, ...], Field(min_length=1, max_length=30)] = (
        "job.finished",
    )


class NotifyChoice(Notify):
    """A listener as a user names it, with the secret that signs."""

    secret: Secret

    def listener(self) -> Notify:
        return Notify(url=self.url, events=self.events)
