"""The database's clock: the only one that is ever compared."""

from datetime import datetime
from typing import Any

from sqlalchemy import Float, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from dropt.storage.columns import UtcTime
from dropt.storage.session import Session


class now_expression(FunctionElement[datetime]):  # noqa: N801  # reads as the function that it is
    """The time of the statement, UTC; not `now()`, which stands still in a transaction."""

    type = UtcTime()
    inherit_cache = True


class epoch_expression(FunctionElement[float]):  # noqa: N801
    """The same in seconds since 1970."""

    type = Float()
    inherit_cache = True


def now(session: Session) -> datetime:
    """The database's time, UTC; milliseconds on SQLite, microseconds on PostgreSQL."""
    return session.scalars(select(now_expression())).one()


def epoch_now(session: Session) -> float:
    """The database's time in seconds since 1970."""
    return session.scalars(select(epoch_expression())).one()


@compiles(now_expression, "sqlite")
def _now_sqlite(element: object, compiler: SQLCompiler, **kw: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"  # the form in which SQLAlchemy stores times


@compiles(now_expression, "postgresql")
def _now_postgresql(element: object, compiler: SQLCompiler, **kw: Any) -> str:
    return "clock_timestamp()"


@compiles(epoch_expression, "sqlite")
def _epoch_sqlite(element: object, compiler: SQLCompiler, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"  # 2440587.5 is the Julian day of 1970


@compiles(epoch_expression, "postgresql")
def _epoch_postgresql(element: object, compiler: SQLCompiler, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"
