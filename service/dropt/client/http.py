"""What users and workers ask of a service, typed.

It stands on the vocabulary and the error tree alone: a worker needs no database and no web server.
"""

import hashlib
import ipaddress
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import quote

import httpx2 as httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from dropt.client.problems import problem_error
from dropt.errors import (
    DigestMismatch,
    DroptError,
    Internal,
    NotFound,
    ServiceUnreachable,
)
from dropt.spec.capsule import Capsule
from dropt.spec.catalogue import DatasetRead, ModelRead, WorkerRead
from dropt.spec.inspection import Inspection
from dropt.spec.job import JobCreate, Task
from dropt.spec.preview import LookPending, PreviewRead
from dropt.spec.protocol import (
    Heartbeat,
    HeartbeatAnswer,
    Lease,
    LeaseRequest,
    Registered,
    Registration,
    Report,
    ReportAnswer,
)
from dropt.spec.results import (
    ArmRead,
    BestRead,
    EventRead,
    JobRead,
    JobSummary,
    Page,
    TrialRead,
    VerdictRead,
)
from dropt.spec.space import Placement

TIMEOUT_S: Final = 5.0  # a request that hangs longer is lost: leases are renewed in time
FILE_TIMEOUT_S: Final = 60.0  # hashing and storing a large upload happens before the answer
FIRST_WORKER_S: Final = 15.0  # a new service answers once a worker has told what it offers
SLACK_S: Final = 5.0  # over the time that a long-poll may take
CHUNK_BYTES: Final = 1 << 20
READY_POLL_S: Final = 0.1
PAGE_SIZE: Final = 500

Parsed = TypeVar("Parsed")
Query = Mapping[str, str | int | list[str] | None]


class Client:
    """One service; every method raises the error that the service raised, or ServiceUnreachable.

    `status` of an error says whether to try again: 429 and 5xx may pass.
    """

    def __init__(
        self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url if "://" in url else f"http://{url}"
        headers = {"Accept": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=TIMEOUT_S, transport=transport,
            trust_env=not _is_loopback(self.url),  # a proxy cannot reach this machine
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        self._http.close()

    # What a user asks.

    def version(self) -> dict[str, Any]:
        """Versions, features and limits of the service."""
        return self._get("/version", dict[str, Any])

    def wait_until_ready(self, check: Callable[[], None]) -> None:
        """Return when the service is ready; `check` is called in between and may raise."""
        while True:
            try:
                self._get("/readyz", dict[str, Any])
            except DroptError as error:
                if error.status < Internal.status:
                    raise
            else:
                return
            check()
            time.sleep(READY_POLL_S)

    def create_job(
        self, body: JobCreate | Mapping[str, Any], *, idempotency_key: str | None = None,
        wait_s: int = 0,
    ) -> JobRead:  # fmt: skip
        """Queue a job; with `wait_s`, stay up to that long for its end."""
        content = _json(body) if isinstance(body, BaseModel) else json.dumps(dict(body)).encode()
        return self._post(
            "/v1/jobs", JobRead, content, key=idempotency_key, wait_s=wait_s,
            patience_s=FIRST_WORKER_S,
        )  # fmt: skip

    def get_job(self, job_id: str, *, wait_s: int = 0) -> JobRead:
        """A job; with `wait_s`, as it is at its end or after that long."""
        headers, timeout = _waiting(wait_s)
        return self._get(f"/v1/jobs/{_part(job_id)}", JobRead, headers=headers, timeout=timeout)

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
        return self._post(f"/v1/jobs/{_part(job_id)}/cancel", JobRead, content)

    def get_verdict(self, job_id: str) -> VerdictRead:
        """Does dropout help: the answer of a job, provisional before its end."""
        return self._get(f"/v1/jobs/{_part(job_id)}/verdict", VerdictRead)

    def get_best(self, job_id: str, *, top: int | None = None) -> BestRead:
        """The recommended configuration, and the `top` best of each arm."""
        return self._get(f"/v1/jobs/{_part(job_id)}/best", BestRead, {"top": top})

    def get_placement(self, job_id: str, *, arm: str | None = None) -> Placement:
        """The recommended configuration, or that of an arm, as `apply()` reads it."""
        return self._get(f"/v1/jobs/{_part(job_id)}/best/config", Placement, {"arm": arm})

    def get_snippet(self, job_id: str, *, arm: str | None = None) -> str:
        """The same as plain PyTorch."""
        asked = {"format": "python"} | ({} if arm is None else {"arm": arm})
        return self._send("GET", f"/v1/jobs/{_part(job_id)}/best/config", params=asked).text

    def list_arms(self, job_id: str) -> tuple[ArmRead, ...]:
        """The arms of a job."""
        return self._get(f"/v1/jobs/{_part(job_id)}/arms", Page[ArmRead]).items

    def iterate_trials(
        self, job_id: str, *, arm: str | None = None, phase: str | None = None
    ) -> Iterator[TrialRead]:
        """Every trial of a job, by number."""
        query: Query = {"arm": arm, "phase": phase}
        return self._items(f"/v1/jobs/{_part(job_id)}/trials", TrialRead, query)

    def get_capsule(self, trial_id: str) -> Capsule:
        """Everything that trains a trial again, alone."""
        return self._get(f"/v1/jobs/-/trials/{_part(trial_id)}/capsule", Capsule)

    def iterate_events(self, job_id: str, *, after: int = 0) -> Iterator[EventRead]:
        """Every stored event of a job above a sequence, in order."""
        return self._items(f"/v1/jobs/{_part(job_id)}/events", EventRead, {"after": after})

    def list_models(self) -> list[ModelRead]:
        """The models that workers offer."""
        return list(self._items("/v1/models", ModelRead))

    def inspect_model(
        self, model: str, dataset: str, *, args: Mapping[str, Any] | None = None, wait_s: int = 0
    ) -> Inspection | LookPending:
        """The sites of a model on a data set, once a worker has looked."""
        content = json.dumps({"dataset": dataset, "args": dict(args or {})}).encode()
        path = f"/v1/models/{_part(model)}/inspect"
        answer: Any = Inspection | LookPending
        found: Inspection | LookPending = self._post(
            path, answer, content, wait_s=wait_s, patience_s=FIRST_WORKER_S
        )
        return found

    def preview_job(self, body: JobCreate | Mapping[str, Any], *, wait_s: int = 0) -> PreviewRead:
        """What a job would be; with `wait_s`, stay up to that long for a look at its model."""
        content = _json(body) if isinstance(body, BaseModel) else json.dumps(dict(body)).encode()
        return self._post(
            "/v1/jobs/preview", PreviewRead, content, wait_s=wait_s, patience_s=FIRST_WORKER_S
        )

    def list_datasets(self) -> list[DatasetRead]:
        """The data sets that workers offer or users uploaded."""
        return list(self._items("/v1/datasets", DatasetRead))

    def add_dataset(
        self, path: Path, *, name: str | None = None, target: str | None = None,
        task: Task | str | None = None,
    ) -> DatasetRead:  # fmt: skip
        """Upload a csv or npz file."""
        fields = {"name": name, "target": target, "task": task}
        with path.open("rb") as file:
            return self._ask(
                "POST", "/v1/datasets", DatasetRead, files={"file": (path.name, file)},
                data={field: value for field, value in fields.items() if value is not None},
                timeout=FILE_TIMEOUT_S,
            )  # fmt: skip

    def list_workers(self) -> list[WorkerRead]:
        """The workers, newest first."""
        return list(self._items("/v1/workers", WorkerRead))

    # What a worker says (the worker protocol, version 1).

    def register_worker(self, registration: Registration) -> Registered:
        """Make a worker known, with everything that it offers."""
        return self._post("/v1/workers", Registered, _json(registration))

    def heartbeat(self, worker_id: str, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Renew the worker and each lease named. NotFound: register again, drop all work."""
        path = f"/v1/workers/{_part(worker_id)}/heartbeat"
        return self._post(path, HeartbeatAnswer, _json(heartbeat))

    def retire_worker(self, worker_id: str) -> None:
        """Say that a worker has gone; its leases are given back. Gone already is fine."""
        self._delete(f"/v1/workers/{_part(worker_id)}")

    def request_lease(
        self, request: LeaseRequest, *, idempotency_key: str, wait_s: int = 0
    ) -> Lease | None:
        """Work, or None when there is none within `wait_s`.

        Repeat a lost request with the same key, or its trials are parked until they expire.
        """
        path = "/v1/leases"
        return self._post(path, Lease | None, _json(request), key=idempotency_key, wait_s=wait_s)  # type: ignore[arg-type]  # a union is no type, TypeAdapter takes it

    def send_report(self, lease_id: str, report: Report) -> ReportAnswer:
        """Tell what was measured and what ended. LeaseLost: nothing of the report was stored."""
        path = f"/v1/leases/{_part(lease_id)}/reports"
        return self._post(path, ReportAnswer, _json(report))

    def give_back(self, lease_id: str) -> None:
        """Give the trials of a lease back; a lease that is gone already is fine."""
        self._delete(f"/v1/leases/{_part(lease_id)}")

    # Files by digest.

    def put_artifact(self, content: bytes) -> str:
        """Upload a file unless the service has it; the digest that names it."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.has_artifact(sha256):
            self._send("PUT", f"/v1/artifacts/{sha256}", content=content, timeout=FILE_TIMEOUT_S)
        return sha256

    def has_artifact(self, sha256: str) -> bool:
        try:
            self._send("HEAD", f"/v1/artifacts/{_part(sha256)}")
        except NotFound:
            return False
        return True

    def fetch(self, path: str, sha256: str, target: Path) -> None:
        """Download what `path` names to a new file.

        Raises:
            DigestMismatch: other bytes came than `sha256` names; nothing is left at `target`.
        """
        digest = hashlib.sha256()
        partial = target.with_name(f"{target.name}.part")
        with _reaching(self.url), self._http.stream("GET", path) as response:
            _raise_problem(response)
            with partial.open("wb") as file:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
        if digest.hexdigest() != sha256:
            partial.unlink()
            raise DigestMismatch(f"{path} has SHA-256 {digest.hexdigest()}, expected {sha256}")
        partial.replace(target)

    # How it is said.

    def _items(
        self, path: str, item: type[Parsed], query: Query | None = None
    ) -> Iterator[Parsed]:
        page_type: Any = Page[item]  # type: ignore[valid-type]  # pydantic builds it at run time
        asked = {"page_size": PAGE_SIZE, **(query or {})}
        while True:
            page = self._get(path, page_type, asked)
            yield from page.items
            if page.next_page_token is None:
                return
            asked["page_token"] = page.next_page_token

    def _get(
        self, path: str, answer: type[Parsed], query: Query | None = None, **options: Any
    ) -> Parsed:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._ask("GET", path, answer, params=given, **options)

    def _post(
        self, path: str, answer: type[Parsed], content: bytes, *, key: str | None = None,
        wait_s: int = 0, patience_s: float = 0.0,
    ) -> Parsed:  # fmt: skip
        headers, timeout = _waiting(wait_s)
        headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        return self._ask(
            "POST", path, answer, content=content, headers=headers, timeout=timeout + patience_s
        )

    def _delete(self, path: str) -> None:
        try:
            self._send("DELETE", path)
        except NotFound:
            return

    def _ask(self, method: str, path: str, answer: type[Parsed], **options: Any) -> Parsed:
        response = self._send(method, path, **options)
        if response.status_code == httpx.codes.NO_CONTENT:
            return cast("Parsed", None)  # asked for with `| None`
        adapter = _adapter(cast("Any", answer))  # hashable, which mypy does not see
        try:
            parsed: Parsed = adapter.validate_json(response.content)
        except ValidationError as error:
            raise Internal(
                f"{method} {path} of {self.url} was answered in a form that this version does "
                f"not understand: {error.errors()[0]['msg']}; do both sides have one version?"
            ) from error
        return parsed

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with _reaching(self.url):
            response = self._http.request(method, path, **options)
            _raise_problem(response)
            return response


@lru_cache
def _adapter(answer: Any) -> TypeAdapter[Any]:  # Any: a type or a union, as `_ask` is told
    return TypeAdapter(answer)


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turn faults of the network into ServiceUnreachable."""
    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL) as error:
        why = f"{error}" or type(error).__name__
        raise ServiceUnreachable(f"No service answers at {url}: {why}") from error


def _raise_problem(response: httpx.Response) -> None:
    """Raise what the service raised, if it did."""
    if response.is_success:
        return
    raise problem_error(response.status_code, response.read())


def _waiting(wait_s: int) -> tuple[dict[str, str], float]:
    """Headers and timeout of a request that may wait."""
    if wait_s <= 0:
        return {}, TIMEOUT_S
    return {"Prefer": f"wait={wait_s}"}, wait_s + SLACK_S


def _json(body: BaseModel) -> bytes:
    return body.model_dump_json(by_alias=True).encode()


def _part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
