"""Everything that can go wrong and has a name.

    DroptError
    ├── InvalidRequest        422 validation
    │   └── DatasetUnreadable 422 dataset-unreadable
    ├── UnsafeJson            422 unsafe-json
    ├── IdempotencyKeyReused  422 idempotency-key-reused
    ├── DigestMismatch        422 digest-mismatch
    ├── ProtocolUnsupported   422 protocol-unsupported
    ├── NotJson               400 not-json
    ├── BadPageToken          400 bad-page-token
    ├── Unauthorized          401 unauthorized
    ├── Forbidden             403 forbidden
    ├── HostNotAllowed        403 host-not-allowed
    ├── NotFound              404 not-found
    ├── NoResultYet           404 no-result-yet
    ├── MethodNotAllowed      405 method-not-allowed
    ├── DashboardReadOnly     405 dashboard-read-only
    ├── SlowBody              408 slow-body
    ├── BadState              409 bad-state
    ├── StillRunning          409 still-running
    ├── InUse                 409 in-use
    ├── JobAlreadyFinished    409 job-already-finished
    ├── NameTaken             409 name-taken
    ├── LeaseLost             409 lease-lost
    ├── SequenceMismatch      409 sequence-mismatch
    ├── StaleRevision         412 stale-revision
    ├── TooLarge              413 too-large
    ├── JsonExpected          415 json-expected
    ├── QuotaExceeded         429 quota
    ├── RateLimited           429 rate-limited
    ├── Internal              500 internal
    ├── NotReady              503 not-ready
    ├── StorageFull           507 storage-full
    └── not from HTTP: ServiceUnreachable, SchemaMismatch, StateInUse, PortInUse, KeyNeeded

Each leaf has one `status` and one `code`, the same in Python and in `application/problem+json`.
`members` are the extension members of the problem (RFC 9457, section 3.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

MAX_SHOWN = 200  # characters of user text in a message


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field: where, what came, what is allowed, what to do."""

    pointer: str  # RFC 6901, "" is the whole body; "?name" a query parameter
    code: str
    message: str
    received: str | None = None
    allowed: tuple[str, ...] = ()
    see: str | None = None


class DroptError(Exception):
    """Root of the tree; `str()` is the sentence for the user."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong"

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.members = dict(members or {})


class InvalidRequest(DroptError):
    """One or more fields are not what is allowed."""

    status, code, title = 422, "validation", "The request is not valid"

    @classmethod
    def of(cls, *errors: FieldError) -> "InvalidRequest":
        """The error over these fields, with a detail that counts them."""
        n = len(errors)
        return cls("1 field needs attention" if n == 1 else f"{n} fields need attention",
                   errors=errors)  # fmt: skip


class DatasetUnreadable(InvalidRequest):
    """An uploaded file is no data set; members `row` and `column` where they are known."""

    code, title = "dataset-unreadable", "The file cannot be read as a data set"


class UnsafeJson(DroptError):
    """JSON that other readers would read differently, or that is too deep or too large."""

    status, code, title = 422, "unsafe-json", "The JSON is not accepted"


class IdempotencyKeyReused(DroptError):
    """The same key came with another body."""

    status, code, title = 422, "idempotency-key-reused", "The Idempotency-Key was used before"


class DigestMismatch(DroptError):
    """The bytes are not those that the digest names."""

    status, code, title = 422, "digest-mismatch", "The digest differs"


class ProtocolUnsupported(DroptError):
    """The worker speaks a protocol version that this service does not."""

    status, code, title = 422, "protocol-unsupported", "The protocol version is not supported"


class NotJson(DroptError):
    """The body is not JSON."""

    status, code, title = 400, "not-json", "The body is not JSON"


class BadPageToken(DroptError):
    """The page token is malformed or belongs to other filters."""

    status, code, title = 400, "bad-page-token", "The page token is not valid"


class Unauthorized(DroptError):
    """The key is missing or unknown."""

    status, code, title = 401, "unauthorized", "The key is not accepted"


class Forbidden(DroptError):
    """The key is good, and may not do this; member `needs` names the scopes of which one does."""

    status, code, title = 403, "forbidden", "The key may not do this"


class HostNotAllowed(DroptError):
    """Keyless mode answers on loopback names alone."""

    status, code, title = 403, "host-not-allowed", "This Host is not allowed"


class NotFound(DroptError):
    """Nothing of that name, or it belongs to another project."""

    status, code, title = 404, "not-found", "Not found"


class NoResultYet(DroptError):
    """The job has no answer so far."""

    status, code, title = 404, "no-result-yet", "No result yet"


class MethodNotAllowed(DroptError):
    """The path exists, the method does not."""

    status, code, title = 405, "method-not-allowed", "The method is not allowed here"


class DashboardReadOnly(DroptError):
    """The dashboard shows, it changes nothing."""

    status, code, title = 405, "dashboard-read-only", "The dashboard is read-only"


class SlowBody(DroptError):
    """The body did not arrive in time."""

    status, code, title = 408, "slow-body", "The body came too slowly"


class BadState(DroptError):
    """The verb does not apply in this state; members `state` and `allowed`."""

    status, code, title = 409, "bad-state", "Not possible in this state"


class StillRunning(DroptError):
    """The job has not ended, and was not to be ended by force."""

    status, code, title = 409, "still-running", "The job is still running"


class InUse(DroptError):
    """Other things need it; member `jobs` names them."""

    status, code, title = 409, "in-use", "It is in use"


class StaleRevision(DroptError):
    """It has changed since the caller read it; member `revision` is the current one."""

    status, code, title = 412, "stale-revision", "It has changed meanwhile"


class JobAlreadyFinished(DroptError):
    """The job has ended, nothing is left to change."""

    status, code, title = 409, "job-already-finished", "The job has finished"


class NameTaken(DroptError):
    """Something else has this name."""

    status, code, title = 409, "name-taken", "The name is taken"


class LeaseLost(DroptError):
    """Trials that this worker no longer holds; nothing of its report was stored."""

    status, code, title = 409, "lease-lost", "The lease on these trials is lost"

    def __init__(
        self,
        lost: Sequence[str],
        *,
        lease_held: bool = True,
    ) -> None:
        super().__init__(
            f"{len(lost)} trials are held by another attempt; drop them and send the rest",
            members={"lost": list(lost), "lease_held": lease_held},
        )
        self.lost = tuple(lost)
        self.lease_held = lease_held


class SequenceMismatch(DroptError):
    """The report is neither the next one nor a repetition of the last."""

    status, code, title = 409, "sequence-mismatch", "The report is out of sequence"

    def __init__(self, expected: int, received: int) -> None:
        super().__init__(
            f"sequence is {received}, expected {expected}", members={"expected": expected}
        )
        self.expected = expected


class TooLarge(DroptError):
    """Larger than a limit, which the detail names."""

    status, code, title = 413, "too-large", "Too large"


class JsonExpected(DroptError):
    """The body has another content type than JSON."""

    status, code, title = 415, "json-expected", "Send application/json"


class QuotaExceeded(DroptError):
    """A limit on the number of things is reached."""

    status, code, title = 429, "quota", "The quota is used up"


class RateLimited(DroptError):
    """Requests come faster than allowed; `Retry-After` says when the next one may."""

    status, code, title = 429, "rate-limited", "Too many requests"


class Internal(DroptError):
    """A fault of the service; the request id finds it in the log."""

    status, code, title = 500, "internal", "Internal error"


class NotReady(DroptError):
    """The service or something that it needs is not ready."""

    status, code, title = 503, "not-ready", "Not ready"


class StorageFull(DroptError):
    """The disk has no room."""

    status, code, title = 507, "storage-full", "The storage is full"


class ServiceUnreachable(DroptError):
    """No service answers at this address."""

    status, code, title = 503, "unreachable", "The service is not reachable"


class SchemaMismatch(DroptError):
    """The database has another schema version than this program."""

    status, code, title = 503, "schema-mismatch", "The database schema does not fit"


class StateInUse(DroptError):
    """Another process owns this state folder."""

    status, code, title = 503, "state-in-use", "The state folder is in use"


class PortInUse(DroptError):
    """Another program listens on this port."""

    status, code, title = 503, "port-in-use", "The port is in use"


class KeyNeeded(DroptError):
    """Other machines could reach the service, and nobody has a key."""

    status, code, title = 503, "key-needed", "The service needs a key first"
