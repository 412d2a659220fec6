"""Which schema a database has, and which one this program needs."""

from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

import dropt
from dropt.errors import SchemaMismatch

VERSION_TABLE = "dropt_alembic_version"  # Optuna keeps its own in `alembic_version`
UPGRADE = "`dropt db upgrade`"


def current(connection: Connection) -> str | None:
    """The revision of the database, None when it has no schema yet."""
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()


def head() -> str:
    """The revision that this program needs."""
    revision = scripts().get_current_head()
    assert revision is not None
    return revision


def check(connection: Connection) -> None:
    """Refuse a database of another revision.

    Raises:
        SchemaMismatch: it names both revisions and what to do.
    """
    found, needed = current(connection), head()
    if found == needed:
        return
    if found is None:
        raise SchemaMismatch(f"The database has no schema yet (needed: {needed}); run {UPGRADE}")
    if not is_known(found):
        raise SchemaMismatch(newer(found))
    raise SchemaMismatch(
        f"The database has schema {found}, this dropt {dropt.__version__} needs {needed}: "
        f"make a copy of it, then run {UPGRADE}"
    )


def is_known(revision: str) -> bool:
    """Whether this program has the migration of that name."""
    return any(script.revision == revision for script in scripts().walk_revisions())


def newer(found: str) -> str:
    """What to do with a database that a newer program has written."""
    return (
        f"The database has schema {found}, which dropt {dropt.__version__} (schema {head()}) "
        "does not know: a newer dropt wrote it. Use that version, or another database"
    )


def scripts() -> ScriptDirectory:
    """The migrations: package data in a wheel, the folder of the repository otherwise."""
    return ScriptDirectory.from_config(config())


def config() -> Config:
    """What alembic needs to know, without an ini file."""
    made = Config()
    made.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    return made


def _folder() -> Path:
    package = Path(dropt.__file__).parent
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parents[1] / "migrations"
