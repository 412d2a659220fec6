"""Token buckets: so many requests in the long run, and some more at once."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

MAX_BUCKETS = 10_000  # of addresses that anybody can make up; about 2 MB


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Buckets:
    """One bucket for each name, of this process.

    Args:
        per_second: tokens that flow in.
        burst: tokens that a full bucket holds, at least 1.
        clock: seconds that never go back.
    """

    def __init__(
        self, per_second: float, burst: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = max(1.0, burst)
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: str) -> int:
        """Take one token: 0 when there was one, else the whole seconds until there is one.

        Of too many names the one asked for longest ago is forgotten; its bucket begins full.
        """
        with self._lock:
            bucket, now = self._buckets.get(name), self._clock()
            if bucket is None:
                bucket = self._buckets[name] = _Bucket(self._burst, now)
                if len(self._buckets) > MAX_BUCKETS:
                    self._buckets.popitem(last=False)
            self._buckets.move_to_end(name)
            flowed = bucket.tokens + (now - bucket.at) * self._per_second
            bucket.tokens, bucket.at = min(self._burst, flowed), now
            if bucket.tokens >= 1:
                bucket.tokens -= 1
                return 0
            return math.ceil((1 - bucket.tokens) / self._per_second)
