"""What a failure means to the person at the terminal: a sentence, a remedy, an exit code."""

from collections.abc import Iterator
from enum import IntEnum

from dropt.errors import (
    DroptError,
    FieldError,
    Forbidden,
    KeyNeeded,
    NotFound,
    PortInUse,
    QuotaExceeded,
    RateLimited,
    SchemaMismatch,
    ServiceUnreachable,
    StateInUse,
    Unauthorized,
)


class ExitCode(IntEnum):
    """How the program ends; every verdict is OK, an honest "no" is a result."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    KEY_REFUSED = 4
    INTERRUPTED = 130


class Refused(DroptError):
    """A command line that cannot be carried out; the detail names the remedy."""

    status, code, title = 422, "usage", "The command cannot be carried out"


class WorkerMissing(DroptError):
    """Training is asked for, and the trainer is not installed here."""

    status, code, title = 503, "worker-missing", "The trainer is not installed"


class ServiceEnded(DroptError):
    """The service of this command has ended before the command has."""

    status, code, title = 503, "service-ended", "The service has ended"


_REMEDIES: dict[type[DroptError], str] = {
    ServiceUnreachable: "Start one with 'dropt serve', or name another with --server URL.",
    Unauthorized: "Give the key with --key or in the environment as DROPT_API_KEY.",
    Forbidden: "Give a key that may with --key or in the environment as DROPT_API_KEY.",
    NotFound: "If it should be there: is the service the right one, and the project of the key?",
    QuotaExceeded: "Jobs that wait: dropt ps. Make room: dropt cancel JOB.",
    RateLimited: "Ask less often, or use a key of your own.",
}  # the details of the others name what to do
_CODES: dict[type[DroptError], ExitCode] = {
    ServiceUnreachable: ExitCode.UNREACHABLE,
    Unauthorized: ExitCode.KEY_REFUSED,
    Forbidden: ExitCode.KEY_REFUSED,
    KeyNeeded: ExitCode.USAGE,
    PortInUse: ExitCode.USAGE,
    SchemaMismatch: ExitCode.USAGE,
    StateInUse: ExitCode.USAGE,
    WorkerMissing: ExitCode.USAGE,
}


def exit_code(error: DroptError) -> ExitCode:
    """The status that belongs to an error: 2 for what the caller can correct, else 3."""
    known = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
    if known is not None:
        return known
    return ExitCode.USAGE if error.status < 500 else ExitCode.UNREACHABLE


def lines_of(error: DroptError) -> Iterator[str]:
    """The error in words: what happened, each field that is wrong, what to do."""
    fields = [_field_line(field) for field in error.errors]
    if len(fields) == 1:
        yield f"dropt: {fields[0]}"
    else:
        yield f"dropt: {error.detail}"
        yield from (f"  {line}" for line in fields)
    yield from (text for kind, text in _REMEDIES.items() if isinstance(error, kind))


def _field_line(field: FieldError) -> str:
    parts = [f"{field.pointer}: {field.message}" if field.pointer else field.message]
    if field.received is not None and field.received not in field.message:
        parts.append(f"Received {field.received!r}.")
    if field.allowed and "Did you mean" not in field.message:
        parts.append(f"Allowed: {', '.join(field.allowed)}.")
    return " ".join(parts)
