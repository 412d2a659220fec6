import base64
import json

import pytest

from dropt.api.answers import EventQuery, TrialQuery
from dropt.api.jobs import JobQuery
from dropt.api.paging import PageQuery, page_by_name, time_mark
from dropt.errors import BadPageToken
from dropt.spec.catalogue import ModelRead


def test_size_is_clamped() -> None:
    assert PageQuery().limit == 50
    assert PageQuery(page_size=501).limit == 500


def test_token_brings_back_its_position() -> None:
    query = TrialQuery(arm="with", order_by="value")
    token = query.token([0.25, "trl_1"])
    again = TrialQuery(arm="with", order_by="value", page_token=token, page_size=7)
    assert again.position() == [0.25, "trl_1"]


@pytest.mark.parametrize(
    "other", [TrialQuery(), TrialQuery(arm="with"), TrialQuery(arm="x", order_by="value")]
)
def test_token_belongs_to_its_filters(other: TrialQuery) -> None:
    token = TrialQuery(arm="with", order_by="value").token([1, "trl_1"])
    with pytest.raises(BadPageToken, match="other filters"):
        other.model_copy(update={"page_token": token}).position()


@pytest.mark.parametrize("token", ["", "A", "ü", "AAAA", "bnVsbA", "W10", "WzFd", "[" * 90_000])
def test_foreign_token_is_refused(token: str) -> None:
    with pytest.raises(BadPageToken):
        EventQuery(page_token=token).position()


@pytest.mark.parametrize("position", [[], [1], ["x", "y"], [1, 2], ["2026-01-01", 3], [None]])
def test_position_of_another_list_is_refused(position: list[str | int | float | None]) -> None:
    query = JobQuery()
    with pytest.raises(BadPageToken):
        time_mark(query.model_copy(update={"page_token": query.token(position)}))


def test_token_is_plain_text_for_an_address() -> None:
    token = PageQuery().token(["ü" * 40, 2**53])
    assert token.isascii()
    assert not set(token) & set("=+/%&?")
    assert json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))[1] == "ü" * 40


def test_short_list_is_paged_by_name() -> None:
    models = [
        ModelRead(name=name, tasks=("regression",), args_schema={}, workers=0) for name in "abcde"
    ]
    query, seen = PageQuery(page_size=2), ""
    while True:
        page = page_by_name(query, models)
        seen += "".join(model.name for model in page.items)
        if page.next_page_token is None:
            break
        query = query.model_copy(update={"page_token": page.next_page_token})
    assert seen == "abcde"
