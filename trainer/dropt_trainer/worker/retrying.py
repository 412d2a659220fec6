"""Requests that are repeated until they are answered."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from dropt.errors import DroptError

logger = logging.getLogger(__name__)

SHORTEST_S, LONGEST_S = 0.5, 10.0  # pause before a request is repeated
TOO_MANY, SERVER_FAULT = 429, 500

Answer = TypeVar("Answer")


class GivenUp(Exception):
    """The worker is to end before the request was answered."""


def is_temporary(error: DroptError) -> bool:
    """Whether the same request may be answered later.

    No connection, too many requests, a fault of the service; and a report whose artifact the
    service has meanwhile swept, because each repetition uploads it first.
    """
    swept = any(field.code == "unknown-artifact" for field in error.errors)
    return swept or error.status >= SERVER_FAULT or error.status == TOO_MANY


def pauses(jitter: np.random.Generator) -> Iterator[float]:
    """Seconds between repetitions: each drawn below a bound that doubles up to 10 s.

    The draw keeps a thousand workers from coming back at the same moment.
    """
    bound = SHORTEST_S
    while True:
        bound = min(2 * bound, LONGEST_S)
        yield float(jitter.uniform(SHORTEST_S, bound))


def until_answered(
    request: Callable[[], Answer],
    *,
    sleep: Callable[[float], bool],
    jitter: np.random.Generator,
) -> Answer:
    """The answer to a request, which is repeated while the failure is temporary.

    Args:
        request: sends it once.
        sleep: waits so many seconds; True when the worker is to end.
        jitter: of the pauses.

    Raises:
        DroptError: a refusal that repeating does not change.
        GivenUp: the worker is to end.
    """
    for pause_s in pauses(jitter):
        try:
            return request()
        except DroptError as error:
            if not is_temporary(error):
                raise
            logger.warning("request.repeated", extra={"why": error.detail, "after_s": pause_s})
        if sleep(pause_s):
            raise GivenUp
    raise AssertionError  # `pauses` has no end
