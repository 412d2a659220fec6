"""Where webhooks may go: allow-listed hosts, and no private address behind their names.

The name is looked up once for each delivery, and the request goes to the address that was judged,
so that a second answer of the name server cannot lead elsewhere.
"""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from dropt.errors import FieldError, InvalidRequest
from dropt.spec.webhooks import Notify, WebhookRules

PORTS = {"http": 80, "https": 443}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NoAddress(Exception):
    """The host of a listener has no address that a webhook may go to."""


@dataclass(frozen=True)
class Target:
    """Where a request goes: the address, and the name that it is for."""

    address: str
    port: int
    parts: SplitResult

    @property
    def url(self) -> str:
        """The URL with the address in place of the name."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        query = f"?{self.parts.query}" if self.parts.query else ""
        return f"{self.parts.scheme}://{host}:{self.port}{self.parts.path or '/'}{query}"


def check_listener(rules: WebhookRules, notify: Notify) -> None:
    """Refuse a listener that no webhook may go to.

    Raises:
        InvalidRequest: code `address-not-allowed`.
    """
    try:
        parts = urlsplit(notify.url)
        is_plain = parts.username is None and parts.port != 0
        is_allowed = is_plain and _host(parts) in rules.hosts
    except ValueError:
        is_allowed = False
    if not is_allowed:
        message = (
            "Webhooks go to the hosts of DROPT_WEBHOOK_HOSTS alone, without a user in the URL; "
            "whoever runs the service may add this one."
        )
        raise InvalidRequest.of(
            FieldError(
                "/notify/url", "address-not-allowed", message, received=notify.url,
                allowed=tuple(sorted(rules.hosts)),
            )
        )  # fmt: skip


def resolve(rules: WebhookRules, url: str) -> Target:
    """The address behind a URL, looked up now.

    Raises:
        NoAddress: the host is not allowed any more, unknown, or any of its addresses is private.
    """
    parts = urlsplit(url)
    host, port = _host(parts), parts.port or PORTS[parts.scheme]
    if host not in rules.hosts:
        raise NoAddress(f"{host} is not among DROPT_WEBHOOK_HOSTS")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NoAddress(f"{host} has no address: {error}") from error
    addresses = [ipaddress.ip_address(str(sockaddr[0])) for *_, sockaddr in found]
    if not rules.private and not all(map(is_public, addresses)):
        raise NoAddress(f"{host} has a private address, see DROPT_WEBHOOK_PRIVATE")
    return Target(f"{addresses[0]}", port, parts)


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet, also where it wraps one of version 4."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.teredo is not None or address.sixtofour is not None:
            return False
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast


def _host(parts: SplitResult) -> str:
    return (parts.hostname or "").rstrip(".")
