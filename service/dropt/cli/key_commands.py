"""`dropt keys new`, `ls` and `rm`: their options; each imports what it needs when it runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_STATE, DEFAULT_PROJECT = Path(".dropt"), "default"

app = typer.Typer(help="Keys, on the host that has the database.", no_args_is_help=True)

State = Annotated[
    Path, typer.Option(envvar="DROPT_STATE", help="Folder of the databases, artifacts and logs.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(envvar="DROPT_DATABASE_URL", help="PostgreSQL; default: SQLite in --state."),
]
Project = Annotated[str, typer.Option(metavar="NAME", help="Projects see nothing of each other.")]


class ScopeName(StrEnum):
    """What a key may do; `admin` may do everything in its project."""

    read = "jobs:read"
    write = "jobs:write"
    worker = "worker"
    admin = "admin"


@app.command()
def new(
    name: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "unnamed",
    scope: Annotated[
        list[ScopeName] | None,
        typer.Option(help="What it may do; may be repeated. Default: jobs:read and jobs:write."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="12h|90d", help="When it ends; default: never.")
    ] = None,
    project: Project = DEFAULT_PROJECT,
    state: State = DEFAULT_STATE,
    database_url: DatabaseUrl = None,
) -> int:
    """Make a key and print it, this once; the first one makes the service ask for keys."""
    from dropt.cli.keys import new_key

    chosen = scope or [ScopeName.read, ScopeName.write]
    return new_key(
        state, database_url, project=project, name=name, scopes=[one.value for one in chosen],
        expires=expires,
    )  # fmt: skip


@app.command()
def ls(
    project: Project = DEFAULT_PROJECT,
    json: Annotated[bool, typer.Option("--json", help="Print them as the API does.")] = False,
    state: State = DEFAULT_STATE,
    database_url: DatabaseUrl = None,
) -> int:
    """List the keys of a project that are not revoked; their secrets are nowhere."""
    from dropt.cli.keys import list_keys

    return list_keys(state, database_url, project=project, as_json=json)


@app.command()
def rm(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of a key: key_...")],
    project: Project = DEFAULT_PROJECT,
    state: State = DEFAULT_STATE,
    database_url: DatabaseUrl = None,
) -> int:
    """Revoke a key: from now on it opens nothing, nor does a session opened with it."""
    from dropt.cli.keys import revoke_key

    return revoke_key(state, database_url, key, project=project)
