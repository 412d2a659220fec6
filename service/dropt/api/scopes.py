"""Which scope a request needs, by method and path alone; what is not named needs the usual ones.

So a route that nobody thought of here is closed to keys without `jobs:read` or `jobs:write`, and
to workers.
"""

import re
from dataclasses import dataclass

from dropt.spec.keys import Scope

OPEN = re.compile(r"/healthz|/readyz|/problems/[^/]*|/assets/.*|/login|/logout")
ANY_KEY: frozenset[Scope] = frozenset()
READING = ("GET", "HEAD")
_READ: frozenset[Scope] = frozenset({"jobs:read"})
_WRITE: frozenset[Scope] = frozenset({"jobs:write"})
_WORKER: frozenset[Scope] = frozenset({"worker"})
_ADMIN: frozenset[Scope] = frozenset({"admin"})


@dataclass(frozen=True)
class _Rule:
    methods: tuple[str, ...]  # empty: all
    path: re.Pattern[str]
    needs: frozenset[Scope]  # one of these

    @classmethod
    def of(cls, methods: str, path: str, needs: frozenset[Scope]) -> "_Rule":
        return cls(tuple(methods.split()), re.compile(path), needs)

    def fits(self, method: str, path: str) -> bool:
        if self.methods and method not in self.methods:
            return False
        return self.path.fullmatch(path) is not None


_RULES = (
    _Rule.of("", r"/v1/keys(/.*)?", _ADMIN),
    _Rule.of("", r"/v1/workers/[^/]*/drain", _ADMIN),
    _Rule.of("", r"/v1/leases(/.*)?", _WORKER),
    _Rule.of("POST DELETE", r"/v1/workers(/.*)?", _WORKER),
    _Rule.of("PUT", r"/v1/artifacts/.*", _WORKER),
    _Rule.of("GET HEAD", r"/v1/artifacts/.*", _WORKER | _READ),
    _Rule.of("GET HEAD", r"/v1/datasets/[^/]*/content", _WORKER | _READ),
    _Rule.of("POST", r"/v1/jobs/preview", _READ),
    _Rule.of("POST", r"/v1/models/[^/]*/inspect", _READ),
    _Rule.of("GET HEAD", r"/version|/openapi\.json|/docs", ANY_KEY),
    _Rule.of("GET HEAD", r".*", _READ),
)


def is_open(path: str) -> bool:
    """Whether this is answered to anybody, because it tells nothing of anybody's work."""
    return OPEN.fullmatch(path) is not None


def needed(method: str, path: str) -> frozenset[Scope]:
    """The scopes of which a key needs one."""
    return next((rule.needs for rule in _RULES if rule.fits(method, path)), _WRITE)
