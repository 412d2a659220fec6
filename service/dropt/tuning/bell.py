"""A bell that wakes requests which wait for news, from any thread."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Bell:
    """Rung when a job has moved on; whoever listens may look again at once.

    It only saves waiting: what another replica changes rings no bell here, so listeners look
    from time to time as well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listening: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def ring(self) -> None:
        """Wake all that listen now; safe to call from any thread."""
        with self._lock:
            for rung, loop in self._listening.items():
                loop.call_soon_threadsafe(rung.set)

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event of the running loop that is set by each ring while the block runs."""
        rung = asyncio.Event()
        with self._lock:
            self._listening[rung] = asyncio.get_running_loop()
        try:
            yield rung
        finally:
            with self._lock:
                del self._listening[rung]
