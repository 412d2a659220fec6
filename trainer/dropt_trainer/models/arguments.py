"""JSON arguments of a model factory, read from its typed signature."""

import functools
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

# Parameters that the data set gives.
FROM_DATA = frozenset({"input_shape", "n_outputs", "task", "n_tokens", "input_names"})
MAX_SHOWN = 200  # characters of a received value in a message


def arguments_schema(factory: Callable[..., Any]) -> dict[str, Any]:
    """JSON Schema of the arguments: an object whose unknown fields are refused."""
    schema: dict[str, Any] = _without_titles(_arguments_model(factory).model_json_schema())
    return schema


def check_arguments(factory: Callable[..., Any], args: Mapping[str, object]) -> dict[str, object]:
    """The arguments with defaults; ValueError names a bad one, its value and what is allowed."""
    model = _arguments_model(factory)
    try:
        checked = model.model_validate_json(json.dumps(dict(args)))  # where a list is a tuple
    except ValidationError as error:
        allowed = ", ".join(model.model_fields) or "none"
        raise ValueError("; ".join(_sentence(e, allowed) for e in error.errors())) from error
    return {name: getattr(checked, name) for name in model.model_fields}


@functools.cache
def _arguments_model(factory: Callable[..., Any]) -> type[BaseModel]:
    hints = typing.get_type_hints(factory, include_extras=True)
    parameters = inspect.signature(factory).parameters
    fields: dict[str, Any] = {
        name: (hints[name], ... if p.default is inspect.Parameter.empty else p.default)
        for name, p in parameters.items()
        if name not in FROM_DATA
    }
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model("Arguments", __config__=config, **fields)


def _sentence(error: Any, allowed: str) -> str:  # Any: pydantic's ErrorDetails
    """One error of pydantic in words."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"Unknown argument {json.dumps(place)}; the arguments are {allowed}"
    received = json.dumps(error["input"], default=str)[:MAX_SHOWN]
    return f"Argument {json.dumps(place)}: {error['msg']}, received {received}"


def _without_titles(schema: Any) -> Any:
    """The schema without pydantic's generated titles (a property of that name is kept)."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }
