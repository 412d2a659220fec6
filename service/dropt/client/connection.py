"""How a service is spoken to: requests, answers of known types, lists page by page, faults."""

import ipaddress
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import quote

import httpx2 as httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from dropt.client.problems import problem_error
from dropt.errors import DroptError, Internal, NotFound, ServiceUnreachable
from dropt.spec.results import Page

KEY_VARIABLE: Final = "DROPT_API_KEY"  # of the environment: the key when none is given
TIMEOUT_S: Final = 5.0  # a request that hangs longer is lost: leases are renewed in time
SLACK_S: Final = 5.0  # over the time that a long-poll may take
READY_POLL_S: Final = 0.1
PAGE_SIZE: Final = 500
FILE_TIMEOUT_S: Final = 60.0  # hashing and storing a large upload happens before the answer
FIRST_WORKER_S: Final = 15.0  # a new service answers once a worker has told what it offers

Parsed = TypeVar("Parsed")
Query = Mapping[str, str | int | list[str] | None]


class Connection:
    """One service; every method raises the error that the service raised, or ServiceUnreachable.

    Without a `key`, the one in DROPT_API_KEY is sent. `status` of an error says whether to try
    again: 429 and 5xx may pass.
    """

    def __init__(
        self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url if "://" in url else f"http://{url}"
        headers = {"Accept": "application/json"}
        if key := key or os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=TIMEOUT_S, transport=transport,
            trust_env=not _is_loopback(self.url),  # a proxy cannot reach this machine
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        self._http.close()

    def version(self) -> dict[str, Any]:
        """Versions, features and limits of the service."""
        return self._get("/version", dict[str, Any])

    def wait_until_ready(self, check: Callable[[], None]) -> None:
        """Return when the service is ready; `check` is called in between and may raise."""
        while True:
            try:
                self._get("/readyz", dict[str, Any])
            except DroptError as error:
                if error.status < Internal.status:
                    raise
            else:
                return
            check()
            time.sleep(READY_POLL_S)

    def _items(
        self, path: str, item: type[Parsed], query: Query | None = None
    ) -> Iterator[Parsed]:
        page_type: Any = Page[item]  # type: ignore[valid-type]  # pydantic builds it at run time
        asked = {"page_size": PAGE_SIZE, **(query or {})}
        while True:
            page = self._get(path, page_type, asked)
            yield from page.items
            if page.next_page_token is None:
                return
            asked["page_token"] = page.next_page_token

    def _get(
        self, path: str, answer: type[Parsed], query: Query | None = None, **options: Any
    ) -> Parsed:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._ask("GET", path, answer, params=given, **options)

    def _post(
        self, path: str, answer: type[Parsed], content: bytes, *, key: str | None = None,
        wait_s: int = 0, patience_s: float = 0.0,
    ) -> Parsed:  # fmt: skip
        headers, timeout = waiting(wait_s)
        headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        return self._ask(
            "POST", path, answer, content=content, headers=headers, timeout=timeout + patience_s
        )

    def _delete(self, path: str) -> None:
        try:
            self._send("DELETE", path)
        except NotFound:
            return

    def _ask(self, method: str, path: str, answer: type[Parsed], **options: Any) -> Parsed:
        response = self._send(method, path, **options)
        if response.status_code == httpx.codes.NO_CONTENT:
            return cast("Parsed", None)  # asked for with `| None`
        adapter = _adapter(cast("Any", answer))  # hashable, which mypy does not see
        try:
            parsed: Parsed = adapter.validate_json(response.content)
        except ValidationError as error:
            raise Internal(
                f"{method} {path} of {self.url} was answered in a form that this version does "
                f"not understand: {error.errors()[0]['msg']}; do both sides have one version?"
            ) from error
        return parsed

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with reaching(self.url):
            response = self._http.request(method, path, **options)
            raise_problem(response)
            return response


@lru_cache
def _adapter(answer: Any) -> TypeAdapter[Any]:  # Any: a type or a union, as `_ask` is told
    return TypeAdapter(answer)


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn faults of the network into ServiceUnreachable."""
    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL) as error:
        why = f"{error}" or type(error).__name__
        raise ServiceUnreachable(f"No service answers at {url}: {why}") from error


def raise_problem(response: httpx.Response) -> None:
    """Raise what the service raised, if it did."""
    if response.is_success:
        return
    raise problem_error(response.status_code, response.read())


def waiting(wait_s: int) -> tuple[dict[str, str], float]:
    """Headers and timeout of a request that may wait."""
    if wait_s <= 0:
        return {}, TIMEOUT_S
    return {"Prefer": f"wait={wait_s}"}, wait_s + SLACK_S


def as_json(body: BaseModel) -> bytes:
    """A body as it is sent."""
    return body.model_dump_json(by_alias=True).encode()


def part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
