import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

from starlette.testclient import TestClient
from tests.service.api.probes import assert_problem

from dropt.api.app import create_app
from dropt.settings import Settings

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATH = f"/v1/artifacts/{DIGEST}"


def pieces() -> Iterator[bytes]:
    for start in range(0, len(CONTENT), 1000):
        yield CONTENT[start : start + 1000]


def test_file_is_stored_once_and_read_whole_or_in_ranges(http: TestClient) -> None:
    assert http.head(PATH).status_code == 404
    assert http.put(PATH, content=CONTENT).status_code == 201
    assert http.put(PATH, content=CONTENT).status_code == 200
    assert http.head(PATH).headers["Content-Length"] == str(len(CONTENT))
    whole = http.get(PATH)
    assert whole.content == CONTENT
    assert whole.headers["ETag"] == f'"{DIGEST}"'
    digest = base64.b64encode(bytes.fromhex(DIGEST)).decode()
    assert whole.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    part = http.get(PATH, headers={"Range": "bytes=256-511"})
    assert (part.status_code, part.content) == (206, bytes(range(256)))


def test_stream_without_a_length_is_stored(http: TestClient) -> None:
    assert http.put(PATH, content=pieces()).status_code == 201
    assert http.get(PATH).content == CONTENT


def test_other_bytes_are_refused_and_leave_nothing(http: TestClient, settings: Settings) -> None:
    assert_problem(http.put(PATH, content=CONTENT + b"x"), 422, "digest-mismatch")
    assert http.head(PATH).status_code == 404
    assert files_in(settings.state / "artifacts") == []


def test_too_large_a_file_is_refused_and_leaves_nothing(settings: Settings) -> None:
    small = settings.model_copy(update={"limit_artifact_bytes": 100_000})
    with TestClient(create_app(small), base_url="http://localhost") as http:
        assert_problem(http.put(PATH, content=CONTENT), 413, "too-large")
        assert_problem(http.put(PATH, content=pieces()), 413, "too-large")
    assert files_in(settings.state / "artifacts") == []


def test_full_disk_refuses_files(settings: Settings) -> None:
    full = settings.model_copy(update={"limit_free_disk_bytes": 1 << 62})
    with TestClient(create_app(full), base_url="http://localhost") as http:
        response = http.put(PATH, content=CONTENT)
        assert_problem(response, 507, "storage-full")
        assert response.headers["Retry-After"]
        upload = http.post("/v1/datasets", files={"file": ("a.csv", "a,y\n")})
        assert_problem(upload, 507, "storage-full")


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
