"""Who asks, and may they: decided for every request, mounts included, before anything else.

Pure ASGI data in, a `Caller` or an error out; the gate calls it first.
"""

import hmac
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Message, Scope, Send

from dropt.api.buckets import Buckets
from dropt.api.scopes import READING, is_open, needed
from dropt.errors import DroptError, Forbidden, HostNotAllowed, RateLimited, Unauthorized
from dropt.jobs import keys
from dropt.jobs.keys import Caller
from dropt.settings import Settings, is_loopback
from dropt.spec.keys import SCOPES, digest_of
from dropt.spec.keys import Scope as KeyScope
from dropt.storage.engine import Database
from dropt.storage.projects import DEFAULT

LOOPBACK_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
BEARER = re.compile(r"Bearer ([\x21-\x7e]+)", re.IGNORECASE)  # RFC 6750, 2.1
SESSION_COOKIE = "dropt_session"
CALLER = "dropt.caller"  # in the scope of a request that was admitted
NOTE_EVERY_S = 60.0  # the last use of a key is known to a minute
RECHECK_S = 10.0  # while an answer waits or streams
ANYBODY = Caller(DEFAULT, frozenset(SCOPES))

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnKey:
    """A key of this process, in no table: of its settings, or of the program that started it."""

    sha256: str
    caller: Caller

    @classmethod
    def of(cls, text: str, *scopes: KeyScope) -> "OwnKey":
        return cls(digest_of(text), Caller(DEFAULT, frozenset(scopes)))


class Guard:
    """Decides on requests; one for each service."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        own_keys: Sequence[OwnKey] = (),
        *,
        recheck_s: float = RECHECK_S,
    ) -> None:
        self._recheck_s = recheck_s
        self._database = database
        self._own = (*own_keys, *own_keys_of(settings))
        self._no_auth = settings.no_auth
        # Keys in the settings are meant to be asked for, also behind a proxy on this machine.
        self._may_be_keyless = is_loopback(settings.host) and settings.admin_key is None
        rate = settings.limit_requests_per_second
        self._buckets = Buckets(rate, 2 * rate)
        bad = settings.limit_bad_keys_per_minute
        self._bad_keys = Buckets(bad / 60, bad)
        self._noted: dict[str, float] = {}
        self._has_keys = False  # once there are keys there always are: revoked ones count

    async def admit(self, scope: Scope) -> None:
        """Let a request pass and name its caller in its scope.

        Raises:
            Unauthorized: no key, or none of ours.
            Forbidden: a key that may not do this.
            HostNotAllowed: keyless, and not by a name of this machine.
            RateLimited: too many requests of this key, or bad keys of this address.
        """
        method, path = scope["method"], scope["path"]
        if is_open(path):
            return
        caller = await self._caller(scope)
        needs = needed(method, path)
        if not caller.may(needs):
            names = sorted(needs)
            raise Forbidden(
                f"This key may not {method} {path}: that needs the scope {' or '.join(names)}; "
                f"make a key that has it: dropt keys new --scope {names[0]}",
                members={"needs": names},
            )
        scope[CALLER] = caller

    def watched(self, scope: Scope, send: Send) -> Send:
        """The way out of an admitted request, which closes when its key ends meanwhile.

        Long-polls wait for a minute and streams for hours; a revoked key must not outlive that.
        """
        caller: Caller | None = scope.get(CALLER)
        if caller is None or caller.key_id is None:
            return send
        checked_at = monotonic()

        async def watching(message: Message) -> None:
            nonlocal checked_at
            if monotonic() - checked_at >= self._recheck_s:
                await to_thread.run_sync(keys.require_live, self._database, caller)
                checked_at = monotonic()
            await send(message)

        return watching

    async def _caller(self, scope: Scope) -> Caller:
        headers = Headers(scope=scope)
        if key := _sent_key(headers):
            return await self._known(key, address_of(scope))
        if self._no_auth:
            return ANYBODY
        if await self.is_keyless():
            check_host(headers)
            return ANYBODY
        if session := _session(headers, scope["method"]):
            return await self._known(session, address_of(scope))
        raise Unauthorized(
            "Send a key: Authorization: Bearer KEY (the command line: --key or DROPT_API_KEY); "
            f"the operator of the service makes one: {keys.NEW_KEY}"
        )

    async def is_keyless(self) -> bool:
        """Whether nobody needs a key: bound to this machine alone, and none was ever made."""
        if not self._may_be_keyless or self._has_keys:
            return False
        self._has_keys = await to_thread.run_sync(keys.any_exist, self._database)
        return not self._has_keys

    def refusal(self, error: Unauthorized, address: str) -> DroptError:
        """What a bad key is answered: too many from one address are told to wait."""
        wait_s = self._bad_keys.take(address)
        return error if wait_s == 0 else _limited("bad keys from this address", wait_s)

    async def _known(self, text: str, address: str) -> Caller:
        digest = digest_of(text)
        for own in self._own:
            if hmac.compare_digest(digest, own.sha256):
                return own.caller
        try:
            caller = await to_thread.run_sync(keys.identify, self._database, text)
        except Unauthorized as error:
            raise self.refusal(error, address) from None
        assert caller.key_id is not None  # it is in the database
        if wait_s := self._buckets.take(caller.key_id):
            raise _limited("requests with this key", wait_s)
        await self._note_use(caller, caller.key_id)
        return caller

    async def _note_use(self, caller: Caller, key_id: str) -> None:
        now = monotonic()
        if now - self._noted.get(key_id, -NOTE_EVERY_S) < NOTE_EVERY_S:
            return
        self._noted[key_id] = now
        try:
            await to_thread.run_sync(keys.note_use, self._database, caller)
        except DroptError as error:  # a full disk must not lock out those who make room
            logger.warning("key.use_not_noted", extra={"key": key_id, "why": error.detail})


def own_keys_of(settings: Settings) -> list[OwnKey]:
    """The keys that the operator put into the settings."""
    found = []
    if settings.admin_key is not None:
        found.append(OwnKey.of(settings.admin_key.get_secret_value(), *SCOPES))
    if settings.worker_key is not None:
        found.append(OwnKey.of(settings.worker_key.get_secret_value(), "worker"))
    return found


def check_host(headers: Headers) -> None:
    """Without keys, who can reach the port may do all: so only this machine, by its own names.

    Another name in Host is a page of a foreign site whose name points here (DNS rebinding);
    forwarding headers come from a proxy, which makes the whole world look local.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not LOOPBACK_HOST.fullmatch(hosts[0]):
        raise HostNotAllowed(
            "Without keys this service answers to localhost, 127.0.0.1 and [::1] only, "
            f"received Host: {', '.join(hosts) or 'none'}; make a key: {keys.NEW_KEY}"
        )
    for name in headers:
        if name == "forwarded" or name.startswith("x-forwarded-"):
            raise HostNotAllowed(
                f"Without keys this service refuses proxies, received {name}; make a key: "
                f"{keys.NEW_KEY}"
            )


def session_in(headers: Headers) -> str | None:
    """The text of the session that a browser sends, if it sends one."""
    return cookie_parser("; ".join(headers.getlist("cookie"))).get(SESSION_COOKIE) or None


def _sent_key(headers: Headers) -> str | None:
    sent = headers.getlist("authorization")
    if not sent:
        return None
    found = BEARER.fullmatch(sent[0]) if len(sent) == 1 else None
    if found is None:
        raise Unauthorized("Send the key once, as: Authorization: Bearer KEY")
    return found[1]


def _session(headers: Headers, method: str) -> str | None:
    """Sessions read alone: so no page of another site can make a browser change anything."""
    text = session_in(headers)
    if text is not None and method not in READING:
        raise Unauthorized(
            "The session of a browser may only read; send a key: Authorization: Bearer KEY"
        )
    return text


def address_of(scope: Scope) -> str:
    """The address that a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _limited(what: str, wait_s: int) -> RateLimited:
    return RateLimited(
        f"Too many {what}; try again in {wait_s} s", members={"retry_after_seconds": wait_s}
    )
