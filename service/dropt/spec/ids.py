"""Identifiers: a prefix and 26 sortable base32 characters."""

import re
import secrets
import threading
import time
from typing import NewType

JobId = NewType("JobId", str)
TrialId = NewType("TrialId", str)
WorkerId = NewType("WorkerId", str)
LeaseId = NewType("LeaseId", str)
DatasetId = NewType("DatasetId", str)

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: no I, L, O, U
_ID = re.compile(rf"(job|trl|wrk|lea|ds|key|whk)_[{ALPHABET}]{{26}}")
_TIME_BITS, _RANDOM_BITS = 48, 82
_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """`<prefix>_` and 48 bits of milliseconds before 82 random bits, rising within a process.

    Two ids of one process made in the same millisecond still sort in the order of their making.
    """
    global _last  # noqa: PLW0603  # the one place that must remember the last id
    with _lock:
        _last = max(
            _last + 1,
            (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS),
        )
        number = _last
    digits = [ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the form of an id with this prefix."""
    return text.startswith(f"{prefix}_") and _ID.fullmatch(text) is not None
