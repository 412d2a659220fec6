"""How alembic reaches our tables: over the connection it is given, or `-x url=...`."""

from alembic import context
from sqlalchemy import Connection

from dropt.storage.engine import make_engine, normal_url
from dropt.storage.schema import VERSION_TABLE
from dropt.storage.tables import metadata


def is_ours(name: str | None, kind: str, parents: object) -> bool:
    """Optuna's tables live beside ours; autogenerate would drop them."""
    return kind != "table" or name in metadata.tables


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_name=is_ours,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def migrate_over_url() -> None:
    url = context.get_x_argument(as_dictionary=True).get("url")
    if url is None:
        raise SystemExit("name the database: alembic -x url=sqlite:////path/to/dropt.db ...")
    with make_engine(normal_url(url), foreign_keys=False).begin() as connection:
        migrate(connection)


given = context.config.attributes.get("connection")
migrate_over_url() if given is None else migrate(given)
