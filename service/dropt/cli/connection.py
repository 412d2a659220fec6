"""Which service a command speaks to: one that is named, the state folder's, or the usual port."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dropt.cli.embedded import embedded
from dropt.cli.hosting import known_address, local_key
from dropt.client import Client
from dropt.errors import DroptError, ServiceUnreachable

USUAL_ADDRESS = "http://127.0.0.1:8000"


@contextmanager
def connected(
    server: str | None, key: str | None, state: Path, *, must_run: bool = False
) -> Iterator[Client]:
    """A client of the service that the options name.

    Without `--server`: the service that runs on the state folder; if none does and the folder has
    a database, one that lives as long as the block (unless `must_run`); else the usual address.
    """
    address = server or running_address(state)
    if address is None and not must_run and (state / "dropt.db").exists():
        with (
            embedded(state, n_workers=0) as service,
            Client(service.address, key=service.key) as client,
        ):
            client.wait_until_ready(service.check)
            yield client
        return
    if server is None and address is not None:
        key = key or local_key(state)
    with Client(address or USUAL_ADDRESS, key=key) as client:
        yield client


def running_address(state: Path) -> str | None:
    """Where the service of a state folder answers, None if none does."""
    address = known_address(state)
    if address is None:
        return None
    try:
        with Client(address) as client:
            client.version()
    except ServiceUnreachable:
        return None
    except DroptError:
        return address
    return address
