"""Jobs, as a user asks for them: submit, follow, steer, delete."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from dropt.client.connection import FIRST_WORKER_S, Connection, Query, as_json, part, waiting
from dropt.spec.changes import Extension, JobChange
from dropt.spec.job import JobCreate
from dropt.spec.preview import PreviewRead
from dropt.spec.results import JobRead, JobSummary, Page


class Jobs(Connection):
    """What a user does with jobs."""

    def create_job(
        self, body: JobCreate | Mapping[str, Any], *, idempotency_key: str | None = None,
        wait_s: int = 0,
    ) -> JobRead:  # fmt: skip
        """Queue a job; with `wait_s`, stay up to that long for its end."""
        content = as_json(body) if isinstance(body, BaseModel) else json.dumps(dict(body)).encode()
        return self._post(
            "/v1/jobs", JobRead, content, key=idempotency_key, wait_s=wait_s,
            patience_s=FIRST_WORKER_S,
        )  # fmt: skip

    def preview_job(self, body: JobCreate | Mapping[str, Any], *, wait_s: int = 0) -> PreviewRead:
        """What a job would be; with `wait_s`, stay up to that long for a look at its model."""
        content = as_json(body) if isinstance(body, BaseModel) else json.dumps(dict(body)).encode()
        return self._post(
            "/v1/jobs/preview", PreviewRead, content, wait_s=wait_s, patience_s=FIRST_WORKER_S
        )

    def get_job(self, job_id: str, *, wait_s: int = 0) -> JobRead:
        """A job; with `wait_s`, as it is at its end or after that long."""
        headers, timeout = waiting(wait_s)
        return self._get(f"/v1/jobs/{part(job_id)}", JobRead, headers=headers, timeout=timeout)

    def list_jobs(
        self, *, state: list[str] | None = None, model: str | None = None,
        dataset: str | None = None, page_size: int | None = None, page_token: str | None = None,
    ) -> Page[JobSummary]:  # fmt: skip
        """One page of jobs, newest first."""
        query: Query = {
            "state": state, "model": model, "dataset": dataset, "page_size": page_size,
            "page_token": page_token,
        }  # fmt: skip
        return self._get("/v1/jobs", Page[JobSummary], query)

    def cancel_job(self, job_id: str, *, reason: str | None = None) -> JobRead:
        """Drop the running trials of a job; what it found so far is kept."""
        content = json.dumps({} if reason is None else {"reason": reason}).encode()
        return self._post(f"/v1/jobs/{part(job_id)}/cancel", JobRead, content)

    def change_job(
        self, job_id: str, change: JobChange, *, revision: int | None = None
    ) -> JobRead:
        """Change name, labels, priority or listener; with `revision`, only if it still has that.

        Raises:
            StaleRevision: it has changed since.
        """
        headers = {"Content-Type": "application/json"}
        if revision is not None:
            headers["If-Match"] = f'W/"{revision}.0"'
        content = change.model_dump_json(exclude_unset=True).encode()
        path = f"/v1/jobs/{part(job_id)}"
        return self._ask("PATCH", path, JobRead, content=content, headers=headers)

    def pause_job(self, job_id: str) -> JobRead:
        """Start no new trials; running ones finish."""
        return self._post(f"/v1/jobs/{part(job_id)}/pause", JobRead, b"")

    def resume_job(self, job_id: str) -> JobRead:
        """Go on after a pause, or after a failure that is `retryable`."""
        return self._post(f"/v1/jobs/{part(job_id)}/resume", JobRead, b"")

    def stop_job(self, job_id: str, *, evidence: bool = True) -> JobRead:
        """End the search now, and decide with what there is unless `evidence` is False."""
        content = json.dumps({"evidence": evidence}).encode()
        return self._post(f"/v1/jobs/{part(job_id)}/stop", JobRead, content)

    def extend_job(
        self, job_id: str, *, trials: int | None = None, seconds: float | None = None,
        again: bool = False, idempotency_key: str | None = None,
    ) -> JobRead:  # fmt: skip
        """Add trials for each arm, or seconds; with `again`, a new verdict from new seeds."""
        more = Extension(trials=trials, seconds=seconds, evidence="again" if again else None)
        content = more.model_dump_json(exclude_none=True).encode()
        path = f"/v1/jobs/{part(job_id)}/extend"
        return self._post(path, JobRead, content, key=idempotency_key)

    def clone_job(
        self, job_id: str, changes: Mapping[str, Any] | None = None, *, warm_start: bool = False,
        idempotency_key: str | None = None,
    ) -> JobRead:  # fmt: skip
        """Queue a new job: the body of this one, with `changes` merged in."""
        content = json.dumps({**(changes or {}), "warm_start": warm_start}).encode()
        path = f"/v1/jobs/{part(job_id)}/clone"
        return self._post(path, JobRead, content, key=idempotency_key)

    def delete_job(self, job_id: str, *, force: bool = False) -> None:
        """Delete a job, also a running one with `force`.

        Raises:
            StillRunning: it runs, and there is no `force`.
        """
        query = {"force": "true"} if force else {}
        self._send("DELETE", f"/v1/jobs/{part(job_id)}", params=query)
