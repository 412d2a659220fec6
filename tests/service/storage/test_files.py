"""The artifact store: whole files under their digest, or nothing."""

import errno
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from dropt.errors import DigestMismatch, NotFound, StorageFull, TooLarge
from dropt.storage.files import ArtifactStore

CONTENT = b"scores of 360 examples"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_chunks_become_one_file_under_their_digest(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert not store.has(DIGEST)
    assert store.put(iter([CONTENT[:5], CONTENT[5:]])) == (DIGEST, len(CONTENT))
    assert store.path(DIGEST) == tmp_path / DIGEST[:2] / DIGEST
    assert store.has(DIGEST)
    with store.open(DIGEST) as file:
        assert file.read() == CONTENT


def test_the_same_bytes_again_are_fine(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert store.put([CONTENT]) == store.put([CONTENT], sha256=DIGEST)


def test_other_bytes_than_announced_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with pytest.raises(DigestMismatch, match=DIGEST):
        store.put([b"other"], sha256=DIGEST)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_more_bytes_than_allowed_are_refused_while_they_come(tmp_path: Path) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 100

    store = ArtifactStore(tmp_path)
    with pytest.raises(TooLarge, match="1000"):
        store.put(endless(), max_bytes=1000)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    def full() -> Iterator[bytes]:
        yield CONTENT
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageFull):
        ArtifactStore(tmp_path).put(full())


@pytest.mark.parametrize(
    "name", ["..", "../" * 3 + "etc", DIGEST.upper(), DIGEST[:-1], "", f"{DIGEST}\n"]
)
def test_only_digests_become_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        ArtifactStore(tmp_path).path(name)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=DIGEST):
        ArtifactStore(tmp_path).open(DIGEST)


def test_half_written_files_are_swept(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "left").write_bytes(b"half")
    store = ArtifactStore(tmp_path)
    assert (store.sweep(), store.sweep()) == (1, 0)


def test_the_steps_are_events(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dropt.storage.files")
    ArtifactStore(tmp_path).put([CONTENT])
    assert caplog.messages == ["artifact.written", "artifact.renamed"]
