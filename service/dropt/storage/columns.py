"""Types of columns: times in UTC, and documents that are checked when they are written."""

import json
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from sqlalchemy import JSON, DateTime, Dialect, TypeDecorator

from dropt.spec.job import JobSpec
from dropt.spec.protocol import Registration
from dropt.spec.space import Space

READ_OFTEN = (JobSpec, Space, Registration)  # with every report or lease, and never changed


class UtcTime(TypeDecorator[datetime]):
    """A point in time that keeps its zone; SQLite drops zones, so UTC is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a time needs its zone, received {value.isoformat()}")
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Document(TypeDecorator[Any]):
    """A value of `dropt.spec`, stored as JSON and read back as the same value."""

    impl = JSON
    cache_ok = True

    def __init__(self, schema: Any) -> None:  # any type that pydantic validates
        super().__init__(none_as_null=True)
        self.schema = schema

    def process_bind_param(self, value: object, dialect: Dialect) -> object:
        return None if value is None else to_jsonable_python(value, by_alias=True)

    def process_result_value(self, value: object, dialect: Dialect) -> Any:
        return None if value is None else _adapter(self.schema).validate_python(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """On SQLite, where the driver hands out the text, what is read often is parsed once."""
        if dialect.name == "sqlite" and self.schema in READ_OFTEN:
            return partial(_parsed, self.schema)
        return super().result_processor(dialect, coltype)


@lru_cache(maxsize=128)
def _parsed(schema: Any, text: str | None) -> Any:
    """The value behind a text; it is frozen, so that all readers may have the same one."""
    return None if text is None else _adapter(schema).validate_python(json.loads(text))


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)
