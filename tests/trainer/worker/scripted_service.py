"""A service that speaks the worker protocol from a script, and whose network can fail."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx2
from tests.trainer.worker.pace import PATIENCE_S

from dropt.spec.protocol import Lease

Body = dict[str, Any]


@dataclass
class ScriptedService:
    """Grants the leases it was given, notes every report, and answers from a script.

    An answer that adds trials waits for a report that has as many slots free.
    `faults` are taken one per report: each may raise before or after the report is stored.
    """

    leases: deque[Body] = field(default_factory=deque)
    answers: deque[Body] = field(default_factory=deque)
    reports: list[Body] = field(default_factory=list)
    refused: list[Body] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    given_back: list[str] = field(default_factory=list)
    lease_keys: list[str] = field(default_factory=list)
    heartbeats: list[Body] = field(default_factory=list)
    registrations: list[Body] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    faults: deque[str] = field(default_factory=deque)
    lease_faults: deque[str] = field(default_factory=deque)
    lost: set[str] = field(default_factory=set)
    offline: bool = False
    expires_in: float = 30.0
    heartbeat_s: float = 10.0
    news: Body = field(default_factory=dict)
    idle: Callable[[], None] = lambda: None
    changed: threading.Condition = field(default_factory=threading.Condition)
    _stored: tuple[int, bytes, Body] | None = None

    def transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(self._answer)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait until a request has made the condition true."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        with self.changed:
            if self.offline:
                raise httpx2.ConnectError("no network", request=request)
            response = self._route(request)
            self.changed.notify_all()
        return response

    def _route(self, request: httpx2.Request) -> httpx2.Response:
        parts = request.url.path.strip("/").split("/")[1:]
        match (request.method, *parts):
            case ("POST", "workers"):
                self.registrations.append(json.loads(request.content))
                return _json(201, {"id": f"wrk_{len(self.registrations)}",
                                   "heartbeat_seconds": self.heartbeat_s,
                                   "lease_seconds": 30, "max_measurements": 5000})  # fmt: skip
            case ("POST", "workers", _, "heartbeat"):
                return self._heartbeat(json.loads(request.content))
            case ("POST", "leases"):
                return self._lease(request)
            case ("POST", "leases", _, "reports"):
                return self._report(request)
            case ("DELETE", "leases", lease):
                self.given_back.append(lease)
                return httpx2.Response(204)
            case ("DELETE", "workers", worker):
                self.retired.append(worker)
                return httpx2.Response(204)
            case (_, "artifacts", digest):
                return self._artifact(request, digest)
        raise AssertionError(f"{request.method} {request.url.path} is not in the protocol")

    def _artifact(self, request: httpx2.Request, digest: str) -> httpx2.Response:
        if request.method == "HEAD":
            return httpx2.Response(200 if digest in self.artifacts else 404)
        assert request.method == "PUT"
        self.artifacts[digest] = request.content
        return httpx2.Response(201)

    def _heartbeat(self, body: Body) -> httpx2.Response:
        self.heartbeats.append(body)
        if self.news.get("unknown"):
            return problem(404, "not-found")
        leases = [{"id": lease, "expires_in": self.expires_in, **self.news.get("lease", {})}
                  for lease in body["leases"]]  # fmt: skip
        return _json(200, {"drain": False, "leases": leases})

    def _lease(self, request: httpx2.Request) -> httpx2.Response:
        self.lease_keys.append(request.headers["Idempotency-Key"])
        if self.lease_faults:
            return _fail(self.lease_faults.popleft(), request)
        if not self.leases:
            self.idle()
            return httpx2.Response(204)
        return _json(200, self.leases.popleft())

    def _report(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        fault = self.faults.popleft() if self.faults else ""
        if fault and not fault.startswith("after:"):
            return _fail(fault, request)
        answer = self._store(request.content, body)
        if fault:
            return _fail(fault.removeprefix("after:"), request)
        return answer

    def _store(self, content: bytes, body: Body) -> httpx2.Response:
        if self._stored is not None and self._stored[:2] == (body["sequence"], content):
            return _json(200, self._stored[2])
        named = {one["trial"] for part in ("measurements", "finished") for one in body[part]}
        if gone := sorted(named & self.lost):
            self.refused.append(body)
            return problem(409, "lease-lost", lost=gone, lease_held=True)
        self.reports.append(body)
        answer = {"sequence": body["sequence"], "expires_in": self.expires_in}
        if self.answers and len(self.answers[0].get("add", ())) <= body["free_slots"]:
            answer |= self.answers.popleft()
        self._stored = (body["sequence"], content, answer)
        return _json(200, answer)

    @property
    def finished(self) -> dict[str, Body]:
        """The end of each trial; a second end of one fails the test."""
        ends = [end for report in self.reports for end in report["finished"]]
        assert len({end["trial"] for end in ends}) == len(ends)
        return {end["trial"]: end for end in ends}

    def epochs(self, trial: str) -> list[int]:
        """The epochs that were reported of a trial, in order."""
        return [m["epoch"] for r in self.reports for m in r["measurements"] if m["trial"] == trial]


def problem(status: int, code: str, **members: object) -> httpx2.Response:
    return httpx2.Response(
        status,
        headers={"Content-Type": "application/problem+json"},
        content=json.dumps({"type": f"/problems/{code}", "title": code, "status": status,
                            "detail": f"scripted {code}", "request_id": "r", **members}),
    )  # fmt: skip


def _json(status: int, body: Body) -> httpx2.Response:
    return httpx2.Response(status, json=body)


def _fail(fault: str, request: httpx2.Request) -> httpx2.Response:
    if fault == "cut":
        raise httpx2.ReadError("the connection was cut", request=request)
    status, _, code = fault.partition(" ")
    return problem(int(status), code or "not-ready")


def train_lease(trials: Iterable[Body], **changes: object) -> Body:
    """A lease to train `mlp` on `digits`."""
    body = {
        "id": "lea_1", "kind": "train", "expires_in": 30, "job": "job_1", "phase": "search",
        "step": "search", "model": {"name": "mlp", "args": {"hidden": [16]}},
        "dataset": {"name": "digits", "task": "classification",
                    "sha256": "ac4c88e3aac26bb6198e8af3f784cd0be54513e08c5ce4ec60bfe3ee32931f58"},
        "training": {"epochs": 4, "batch_size": 256, "loss": "cross_entropy",
                     "metrics": ["nll", "accuracy"]},
        "objective": {"metric": "nll", "direction": "minimize"},
        "slots": 4, "columns": {"layers.1:out": ["element"]}, "rungs": [],
        "trials": list(trials), **changes,
    }  # fmt: skip
    Lease.model_validate(body)
    return body


def trial(name: str, *, epochs: int = 4, rate: float = 0.2, **changes: object) -> Body:
    sites = {"layers.1:out": {"kind": "element", "rate": rate}} if rate else {}
    return {
        "id": name, "arm": "with", "number": 0, "attempt": 1, "seed": 7, "epochs": epochs,
        "params": {"lr": 0.01}, "sites": sites, **changes,
    }  # fmt: skip
