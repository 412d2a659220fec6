"""Keys: what may be done with one, and how its text is made, named and kept out of logs."""

import hashlib
import re
import secrets
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, Field

from dropt.spec.ids import ALPHABET
from dropt.spec.record import Answer, Record, Text

Scope = Literal["jobs:read", "jobs:write", "worker", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
USER_SCOPES: tuple[Scope, ...] = ("jobs:read", "jobs:write")

KEY = re.compile(rf"dropt_([{ALPHABET}]{{8}})_[A-Za-z0-9_-]{{43}}")
_SECRET = re.compile(rf"(dropt_[{ALPHABET}]{{8}}_)[A-Za-z0-9_-]{{16,}}")  # cut ones too
_N_HANDLE, _N_BYTES = 8, 32

Project = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Lower case, digits, - and _.")
]


class KeyCreate(Record):
    """A new key of the caller's own project."""

    name: Text
    scopes: tuple[Scope, ...] = Field(default=USER_SCOPES, min_length=1, max_length=len(SCOPES))
    expires_at: AwareDatetime | None = None


class KeyRead(Answer):
    """A key without its secret: `handle` is the part that its text shows after `dropt_`."""

    id: str
    name: str
    handle: str
    project: str
    scopes: tuple[Scope, ...]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    last_used_at: AwareDatetime | None


class KeyMade(KeyRead):
    """A new key; `key` is shown this once and stored nowhere."""

    key: str = Field(repr=False)


def new_key() -> str:
    """`dropt_<8 characters to find it by>_<43 of base64url>`; the last are 256 random bits."""
    handle = "".join(secrets.choice(ALPHABET) for _ in range(_N_HANDLE))
    return f"dropt_{handle}_{secrets.token_urlsafe(_N_BYTES)}"


def handle_of(key: str) -> str | None:
    """The part by which a key is found; None when the text has not the form of a key."""
    found = KEY.fullmatch(key)
    return found[1] if found else None


def digest_of(key: str) -> str:
    """SHA-256, hexadecimal: all that is stored.

    A slow hash protects secrets that people choose; 256 random bits cannot be searched.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def redacted(text: str) -> str:
    """The text with the secret part of every key in it replaced."""
    return _SECRET.sub(r"\1***", text)


def redacted_values(value: Any) -> Any:
    """The same for every text in lists and mappings, names included; other values as they are."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redacted_values(name): redacted_values(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(each) for each in value]
    return value
