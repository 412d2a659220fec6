"""What a worker says: the worker protocol, version 1."""

from dropt.client.connection import Connection, as_json, part
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


class WorkerProtocol(Connection):
    """What a worker asks and tells."""

    def register_worker(self, registration: Registration) -> Registered:
        """Make a worker known, with everything that it offers."""
        return self._post("/v1/workers", Registered, as_json(registration))

    def heartbeat(self, worker_id: str, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Renew the worker and each lease named. NotFound: register again, drop all work."""
        path = f"/v1/workers/{part(worker_id)}/heartbeat"
        return self._post(path, HeartbeatAnswer, as_json(heartbeat))

    def retire_worker(self, worker_id: str) -> None:
        """Say that a worker has gone; its leases are given back. Gone already is fine."""
        self._delete(f"/v1/workers/{part(worker_id)}")

    def request_lease(
        self, request: LeaseRequest, *, idempotency_key: str, wait_s: int = 0
    ) -> Lease | None:
        """Work, or None when there is none within `wait_s`.

        Repeat a lost request with the same key, or its trials are parked until they expire.
        """
        path = "/v1/leases"
        return self._post(path, Lease | None, as_json(request), key=idempotency_key, wait_s=wait_s)  # type: ignore[arg-type]  # a union is no type, TypeAdapter takes it

    def send_report(self, lease_id: str, report: Report) -> ReportAnswer:
        """Tell what was measured and what ended. LeaseLost: nothing of the report was stored."""
        path = f"/v1/leases/{part(lease_id)}/reports"
        return self._post(path, ReportAnswer, as_json(report))

    def give_back(self, lease_id: str) -> None:
        """Give the trials of a lease back; a lease that is gone already is fine."""
        self._delete(f"/v1/leases/{part(lease_id)}")
