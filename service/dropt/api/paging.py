"""Pages of a list: how many items, and a token that says where the next page begins."""

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from dropt.errors import BadPageToken
from dropt.spec.catalogue import DatasetRead, ModelRead
from dropt.spec.results import Page

PAGE_SIZE, MAX_PAGE_SIZE = 50, 500
Position = Sequence[str | int | float | None]
NamedItem = TypeVar("NamedItem", DatasetRead, ModelRead)


class PageQuery(BaseModel):
    """The query of every list."""

    model_config = ConfigDict(frozen=True)

    page_size: int = Field(
        default=PAGE_SIZE, ge=1, description=f"At most {MAX_PAGE_SIZE}; more gives that many."
    )
    page_token: str | None = Field(default=None, description="`next_page_token` of the last page.")

    @property
    def limit(self) -> int:
        return min(self.page_size, MAX_PAGE_SIZE)

    def position(self) -> list[str | int | float | None] | None:
        """Where this page begins, None for the first one.

        Raises:
            BadPageToken: it was not made by us, or for other filters.
        """
        if self.page_token is None:
            return None
        try:
            padded = self.page_token + "=" * (-len(self.page_token) % 4)
            told = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
            filters: str = told[0]
            position: list[str | int | float | None] = told[1:]
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise BadPageToken("The page token is not one of this service") from error
        if filters != self._filters():
            raise BadPageToken("The page token belongs to other filters; start at the first page")
        return position

    def token(self, position: Position) -> str:
        """The token of the page that begins after `position`."""
        content = json.dumps([self._filters(), *position], separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    def _filters(self) -> str:
        filters = self.model_dump(mode="json", exclude={"page_size", "page_token"})
        return hashlib.sha256(json.dumps(filters, sort_keys=True).encode()).hexdigest()[:16]


def link_next(request: Request, response: Response, token: str | None) -> None:
    """The next page as a `Link` header (RFC 8288)."""
    if token is not None:
        url = request.url.include_query_params(page_token=token)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'


def time_mark(query: PageQuery) -> tuple[datetime, str] | None:
    """(time, id) of the last item of the page before, of a list in the order of time.

    Raises:
        BadPageToken: the token holds something else.
    """
    match query.position():
        case None:
            return None
        case [str(at), str(name)]:
            try:
                return datetime.fromisoformat(at), name
            except ValueError:
                pass
    raise BadPageToken("The page token is not one of this list")


def page_by_name(query: PageQuery, items: Sequence[NamedItem]) -> Page[NamedItem]:
    """The page of a short list that is sorted by name."""
    match query.position():
        case None:
            rest = list(items)
        case [str(last)]:
            rest = [item for item in items if item.name > last]
        case _:
            raise BadPageToken("The page token is not one of this list")
    shown = rest[: query.limit]
    token = query.token([shown[-1].name]) if len(rest) > len(shown) else None
    return Page(items=tuple(shown), next_page_token=token)
