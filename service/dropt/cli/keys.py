"""`dropt keys`: make, list and revoke keys, on the host that has the database.

Whoever can open the database can do all that a key can, so nothing is asked here; from elsewhere
there is `/v1/keys`.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from rich.table import Table
from rich.text import Text

from dropt.cli.hosting import prepare_database
from dropt.cli.problems import ExitCode, Refused
from dropt.cli.progress import make_console
from dropt.cli.reading import printable
from dropt.cli.serving import make_settings
from dropt.spec.keys import KeyRead, Project, Scope

if TYPE_CHECKING:
    from dropt.storage.engine import Database

MANY = 10_000
_SPAN = re.compile(r"(\d{1,4})([hd])", re.ASCII)


def new_key(
    state: Path, database_url: str | None, *, project: str, name: str, scopes: Sequence[Scope],
    expires: str | None,
) -> ExitCode:  # fmt: skip
    """Make a key and print it: the text alone on standard output, what to do with it beside."""
    from dropt.jobs import keys

    end = None if expires is None else datetime.now(UTC) + _span(expires)
    with _database(state, database_url) as database:
        made = keys.make(
            database, project=_checked(project), name=name[:200], scopes=scopes, expires_at=end
        )
    print(made.key)
    until = f", until {made.expires_at:%Y-%m-%d %H:%M} UTC" if made.expires_at else ""
    print(
        f"{made.id} may {', '.join(made.scopes)} in project {made.project}{until}; it is shown "
        "this once.\nGive it to dropt and dropt-worker as DROPT_API_KEY, to curl with -H "
        "'Authorization: Bearer KEY'.\nFrom now on services on this database ask for keys.",
        file=sys.stderr,
    )
    return ExitCode.OK


def list_keys(state: Path, database_url: str | None, *, project: str, as_json: bool) -> ExitCode:
    """Print the keys of a project that are not revoked, newest first."""
    from dropt.jobs import keys

    with _database(state, database_url) as database:
        found = keys.list_keys(database, project=_checked(project), limit=MANY)
    if as_json:
        print("[" + ",\n".join(key.model_dump_json(indent=2) for key in found) + "]")
    elif found:
        make_console().print(_table(found), soft_wrap=True)
    else:
        print(f"Project {project} has no keys. Make one: dropt keys new --project {project}")
    return ExitCode.OK


def revoke_key(state: Path, database_url: str | None, key_id: str, *, project: str) -> ExitCode:
    """End a key at once, also in a service that runs."""
    from dropt.jobs import keys

    with _database(state, database_url) as database:
        keys.revoke(database, key_id, project=_checked(project))
    print(f"{key_id} is revoked.")
    return ExitCode.OK


@contextmanager
def _database(state: Path, database_url: str | None) -> "Iterator[Database]":
    from dropt.storage.engine import Database

    settings = make_settings(state=state, database_url=database_url)
    prepare_database(settings.database_url)
    database = Database.open(settings.database_url)
    try:
        yield database
    finally:
        database.close()


def _checked(project: str) -> str:
    try:
        found: str = TypeAdapter(Project).validate_python(project)
    except ValidationError as error:
        raise Refused(
            f"--project is up to 63 of a-z, 0-9, '-' and '_', received '{project}'."
        ) from error
    return found


def _span(text: str) -> timedelta:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise Refused(f"--expires is a number of hours or days, 12h or 90d, received '{text}'.")
    return timedelta(hours=int(found[1]) * (24 if found[2] == "d" else 1))


def _table(found: Sequence[KeyRead]) -> Table:
    table = Table("id", "name", "handle", "scopes", "expires", "last used", box=None)
    table.columns[0].min_width = len(found[0].id)
    for key in found:
        times = (key.expires_at, key.last_used_at)
        expires, used = (f"{at:%Y-%m-%d %H:%M}" if at else "never" for at in times)
        scopes = "all" if "admin" in key.scopes else ", ".join(key.scopes)
        cells = (key.id, printable(key.name), key.handle, scopes, expires, used)
        table.add_row(*map(Text, cells))
    return table
