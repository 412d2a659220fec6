"""Where log records go: JSON lines in a file, readable lines on a terminal."""

import logging
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO

from dropt.spec.keys import redacted_values

TALKATIVE = ("httpx2", "alembic")  # a line for each request of a client, for each plugin


def log_to(target: Path | TextIO, level: str = "info") -> None:
    """Send the log records of this process to a file (JSON) or a stream (text)."""
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler: logging.Handler
    renderer: structlog.typing.Processor
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(target, encoding="utf-8")
        renderer = structlog.processors.JSONRenderer(default=str)
    else:
        handler = logging.StreamHandler(target)
        renderer = structlog.dev.ConsoleRenderer(colors=target.isatty())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                without_keys,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for talkative in TALKATIVE:
        logging.getLogger(talkative).setLevel(logging.WARNING)


def without_keys(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A processor of structlog: no record tells a key, whoever put it into a path or a name."""
    found: MutableMapping[str, Any] = redacted_values(dict(event))
    return found
