import pytest
from starlette.testclient import TestClient
from tests.service.api.probes import assert_problem

from dropt.api.help_pages import kinds_of_problems
from dropt.api.problems import printable, problem_of, problem_response
from dropt.errors import (
    DroptError,
    FieldError,
    InvalidRequest,
    LeaseLost,
    MethodNotAllowed,
    NotReady,
    SequenceMismatch,
    TooLarge,
    Unauthorized,
)

KINDS = sorted(kinds_of_problems(), key=lambda kind: kind.code)


def made(kind: type[DroptError]) -> DroptError:
    if kind is LeaseLost:
        return LeaseLost(["trl_1"])
    if kind is SequenceMismatch:
        return SequenceMismatch(3, 5)
    return kind("what happened")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_leaf_of_the_tree_becomes_a_problem(kind: type[DroptError]) -> None:
    problem = problem_of(made(kind), "/v1/x")
    assert problem["type"] == f"/problems/{kind.code}"
    assert problem["status"] == kind.status >= 400
    assert problem["title"] == kind.title
    assert problem["detail"]


def test_codes_are_distinct() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS) > 25


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_problem_has_a_page(shared: TestClient, kind: type[DroptError]) -> None:
    page = shared.get(f"/problems/{kind.code}")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f"HTTP status {kind.status}" in page.text


def test_members_and_fields_are_told() -> None:
    lost = problem_of(LeaseLost(["trl_1"]), "/")
    assert (lost["lost"], lost["lease_held"]) == (["trl_1"], True)
    field = FieldError("/a", "out-of-range", "Must be above 0.", "-1", ("above 0",), "/v1/x")
    assert problem_of(InvalidRequest.of(field), "/")["errors"] == [
        {
            "pointer": "/a",
            "code": "out-of-range",
            "message": "Must be above 0.",
            "received": "-1",
            "allowed": ["above 0"],
            "see": "/v1/x",
        }
    ]


def test_text_of_users_is_escaped_and_cut() -> None:
    hostile = "<b>\r\n\x1b[2J\u202e\ud800ü"
    assert printable(hostile, 100) == "<b>\\r\\n\\x1b[2J\\u202e\\ud800ü"
    assert printable("x" * 300, 200) == "x" * 199 + "…"
    assert len(printable("\x00" * 200, 200)) == 200
    error = InvalidRequest.of(FieldError("/\x1b", "c", hostile, hostile, (hostile,)))
    content = problem_response(error, "/\n").body
    assert not {b"\x1b", b"\n", "\u202e".encode()} & {bytes([b]) for b in bytes(content)}


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (NotReady("away"), "Retry-After", "5"),
        (Unauthorized("who"), "WWW-Authenticate", "Bearer"),
        (TooLarge("big"), "Connection", "close"),
        (MethodNotAllowed("no", members={"allow": ["GET", "HEAD"]}), "Allow", "GET, HEAD"),
    ],
)
def test_headers_say_what_to_do(error: DroptError, name: str, value: str) -> None:
    assert problem_response(error, "/").headers[name] == value


def test_unknown_path_is_not_found(shared: TestClient) -> None:
    for path in (
        "/nope",
        "/v1",
        "/v1/jobs/",
        "/v2/jobs",
        "/problems",
        "/openapi.yaml",
        "/docs",
    ):
        assert_problem(shared.get(path), 404, "not-found")


def test_wrong_method_names_all_that_are_right(shared: TestClient) -> None:
    response = shared.put("/v1/jobs", json={})
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["Allow"] == "GET, POST"


def test_malformed_digest_is_not_found(shared: TestClient) -> None:
    assert_problem(shared.get("/v1/artifacts/xyz"), 404, "not-found")


@pytest.mark.parametrize(
    ("query", "pointer", "message"),
    [
        ("stat=running", "?stat", "Unknown parameter. Did you mean 'state'?"),
        ("state=runing", "?state/0", "Did you mean 'running'?"),
        ("page_size=0", "?page_size", "Must be at least 1."),
        ("page_size=many", "?page_size", "Must be a whole number at least 1."),
        ("created_after=yesterday", "?created_after", "valid datetime"),
        ("created_after=2026-01-01T00:00:00", "?created_after", "timezone"),
        ("order_by=name", "?order_by", "Must be created_at desc."),
        ("label=vision", "?label", "Must be NAME:VALUE"),
    ],
)
def test_wrong_query_is_told(shared: TestClient, query: str, pointer: str, message: str) -> None:
    (field,) = assert_problem(shared.get(f"/v1/jobs?{query}"), 422, "validation")["errors"]
    assert field["pointer"] == pointer
    assert message in field["message"]


@pytest.mark.parametrize(
    "path", ["/healthz", "/version", "/v1/jobs/job_x", "/v1/jobs/x/arms", "/problems/quota"]
)
def test_query_is_refused_where_there_is_none(shared: TestClient, path: str) -> None:
    (field,) = assert_problem(shared.get(f"{path}?wait=3"), 422, "validation")["errors"]
    assert (field["pointer"], field["code"]) == ("?wait", "unknown-parameter")
