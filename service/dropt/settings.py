"""Everything that can be set, from the environment (`DROPT_*`) or by the command line."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MIN_KEY = 20  # characters of a key that an operator makes: `openssl rand -hex 24` gives 48


def _database_in(data: Mapping[str, object]) -> str:
    state = data.get("state")
    return f"sqlite:///{Path(state).absolute() / 'dropt.db'}" if isinstance(state, Path) else ""


class Settings(BaseSettings):
    """One frozen object, made by the entry point and handed down; nothing reads it globally."""

    model_config = SettingsConfigDict(
        env_prefix="DROPT_",
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    state: Path = Field(
        default=Path(".dropt"), description="Folder of the databases, artifacts and logs."
    )
    database_url: str = Field(
        default_factory=_database_in, repr=False,
        description="sqlite or postgresql; the default is a file in `state`.",
    )  # fmt: skip
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free port.")
    no_auth: bool = Field(
        default=False,
        description="Ask for no keys: whoever reaches the port may do all, as project `default`.",
    )
    admin_key: SecretStr | None = Field(
        default=None, min_length=MIN_KEY,
        description="A key for everything in project `default`, kept outside the database.",
    )  # fmt: skip
    worker_key: SecretStr | None = Field(
        default=None, min_length=MIN_KEY, description="The same for its workers alone."
    )
    webhook_hosts: str = Field(
        default="", description="Hosts that webhooks may go to, with commas between; none."
    )
    webhook_private: bool = Field(
        default=False, description="Webhooks may go to hosts with private addresses."
    )
    lease_seconds: float = Field(default=30.0, gt=0, le=3600)
    heartbeat_seconds: float = Field(default=10.0, gt=0, le=1200)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    limit_json_bytes: int = Field(default=MIB, ge=KIB)
    limit_json_depth: int = Field(default=32, ge=1, le=500)
    limit_json_nodes: int = Field(default=50_000, ge=1)
    limit_body_seconds: float = Field(default=30.0, gt=0, description="Between two bytes.")
    limit_upload_bytes: int = Field(default=GIB, ge=KIB)
    limit_decoded_bytes: int = Field(default=4 * GIB, ge=KIB)
    limit_columns: int = Field(default=4096, ge=1)
    limit_artifact_bytes: int = Field(default=2 * GIB, ge=KIB)
    limit_free_disk_bytes: int = Field(
        default=GIB, ge=0, description="Below this free space, files are refused."
    )
    limit_queued_jobs: int = Field(default=100, ge=1, description="Of a project; more are 429.")
    limit_running_jobs: int = Field(
        default=20, ge=1, description="Of a project; more stay queued until one ends."
    )
    limit_open_trials: int = Field(
        default=500_000, ge=1,
        description="Sum of `budget.trials` over the arms of a project's unfinished jobs.",
    )  # fmt: skip
    limit_requests_per_second: float = Field(
        default=200.0, gt=0, description="Of one key in the long run; twice as many at once."
    )
    limit_bad_keys_per_minute: float = Field(
        default=60.0, gt=0, description="Of one address; more are 429 instead of 401."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        if self.heartbeat_seconds >= self.lease_seconds:
            raise ValueError(
                f"heartbeat_seconds ({self.heartbeat_seconds:g}) must be below lease_seconds "
                f"({self.lease_seconds:g}), or every lease expires between two heartbeats"
            )
        return self

    def listeners(self) -> frozenset[str]:
        """The hosts that webhooks may go to."""
        hosts = (host.strip().lower() for host in self.webhook_hosts.split(","))
        return frozenset(host for host in hosts if host)

    def limits(self) -> dict[str, int | float]:
        """The limits by name, as `GET /version` shows them."""
        prefix = "limit_"
        return {
            name.removeprefix(prefix): getattr(self, name)
            for name in type(self).model_fields
            if name.startswith(prefix)
        }


def is_loopback(host: str) -> bool:
    """Whether this address or name reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
