"""`dropt serve` and `dropt db upgrade`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dropt.cli.figures import count
from dropt.cli.hosting import hosted, listen, stopped_by_signals
from dropt.cli.logs import log_to
from dropt.cli.problems import ExitCode, Refused

if TYPE_CHECKING:
    from dropt.settings import Settings


def serve_here(
    host: str, port: int, state: Path, n_workers: int, database_url: str | None
) -> ExitCode:
    """Serve until SIGTERM or Ctrl-C."""
    settings = make_settings(host=host, port=port, state=state, database_url=database_url)
    log_to(sys.stderr, settings.log_level)
    with (
        listen(host, port) as listener,
        stopped_by_signals() as stop,
        hosted(settings, listener, n_workers=n_workers) as service,
    ):
        workers = "without workers" if n_workers == 0 else f"with {count(n_workers, 'worker')}"
        print(f"dropt serves {service.address} {workers}; state in {state}", flush=True)
        service.watch(stop)
    return ExitCode.OK


def upgrade_database(state: Path, database_url: str | None) -> ExitCode:
    """Upgrade the database of a state folder, or the one that is named."""
    from dropt.storage import migrate

    settings = make_settings(state=state, database_url=database_url)
    before = migrate.current(settings.database_url)
    migrate.upgrade(settings.database_url)
    after = migrate.current(settings.database_url)
    done = "is at" if before == after else f"went from {before or 'nothing'} to"
    print(f"The database {done} schema {after}.")
    return ExitCode.OK


def make_settings(**values: object) -> "Settings":
    """The settings with these values; those that are None are left to the environment.

    Raises:
        Refused: they do not fit together; the sentence names the setting.
    """
    from pydantic import ValidationError

    from dropt.settings import Settings

    given = {name: value for name, value in values.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # the options of typer, checked there
    except ValidationError as error:
        raise Refused("; ".join(_sentence(e["loc"], e["msg"]) for e in error.errors())) from error


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in location)
    text = message.removeprefix("Value error, ")
    return f"{where}: {text}" if where else text
