"""The body of a job from a file and from options; options win over the file."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from dropt.cli.problems import Refused

Body: TypeAlias = dict[str, Any]  # JSON; the service says what of it is not allowed


def read_body(source: str | None) -> Body:
    """The job in a JSON file, on standard input for `-`, empty for None.

    Raises:
        Refused: it cannot be read, or it is no JSON object.
    """
    if source is None:
        return {}
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except OSError as error:
        raise Refused(f"The job file {source} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise Refused(f"The job file {source} is not UTF-8 text.") from error
    try:
        body = json.loads(text)
    except ValueError as error:
        raise Refused(f"The job file {source} is no JSON: {error}.") from error
    if not isinstance(body, dict):
        raise Refused(f"The job file {source} must hold a JSON object.")
    return body


def set_options(body: Body, options: Mapping[str, str | float | None]) -> Body:
    """A copy of the body with the options that are given, named by path: `budget.trials`.

    Raises:
        Refused: the file has something else than an object where an option goes.
    """
    changed: Body = json.loads(json.dumps(body))
    for path, value in options.items():
        if value is None:
            continue
        *parents, last = path.split(".")
        place = changed
        for name in parents:
            inner = place.setdefault(name, {})
            if not isinstance(inner, dict):
                raise Refused(f"'{name}' of the job file is {inner!r}, and an option changes it.")
            place = inner
        place[last] = value
    return changed


def name_in(body: Body, field: str) -> str | None:
    """The name of the model or data set in a body, where it has one."""
    value = body.get(field)
    if isinstance(value, dict):
        value = value.get("name")
    return value if isinstance(value, str) else None


def set_name(body: Body, field: str, name: str) -> Body:
    """The body with another name for its model or data set; what else is said of it stays."""
    value = body.get(field)
    return {**body, field: {**value, "name": name} if isinstance(value, dict) else name}


def require_subject(body: Body) -> None:
    """Raise Refused unless the body has a model and a data set."""
    missing = [f"--{field}" for field in ("model", "dataset") if not body.get(field)]
    if missing:
        raise Refused(
            f"Say what to try: {' and '.join(missing)} missing. "
            "For example: dropt run --model mlp --dataset digits"
        )
