"""Files named by the SHA-256 of their bytes; nothing that a user chose is part of a path."""

import errno
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dropt.errors import DigestMismatch, NotFound, StorageFull, TooLarge

logger = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Stored(NamedTuple):
    """What was written."""

    sha256: str
    n_bytes: int


class ArtifactStore:
    """A folder of files: `ab/<sha256>`, and `tmp/` for those that are being written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tmp = root / "tmp"
        self._tmp.mkdir(parents=True, exist_ok=True)

    def put(
        self,
        stream: Iterable[bytes],
        *,
        sha256: str | None = None,
        max_bytes: int | None = None,
    ) -> Stored:
        """Write the chunks; on return the file is on the disk under its digest, whole.

        A crash leaves a file in `tmp` (swept at start) or a file that nothing refers to.

        Raises:
            DigestMismatch: the bytes are not those of `sha256`.
            TooLarge: more than `max_bytes` came.
            StorageFull: the disk has no room.
        """
        temporary = self._tmp / secrets.token_hex(16)
        try:
            with temporary.open("xb") as file:
                stored = _write(file, stream, max_bytes)
            logger.debug("artifact.written", extra={"sha256": stored.sha256})
            if sha256 not in (None, stored.sha256):
                raise DigestMismatch(f"the digest is {stored.sha256}, announced was {sha256}")
            self._adopt(temporary, stored.sha256)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("No room for artifacts; free some space") from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
        return stored

    def path(self, sha256: str) -> Path:
        """Where the file of that digest is, or would be.

        Raises:
            NotFound: this is no SHA-256 in lower-case hexadecimal.
        """
        if not _DIGEST.fullmatch(sha256):
            raise NotFound("No artifact of this name: a SHA-256 has 64 hexadecimal digits")
        return self.root / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def open(self, sha256: str) -> BinaryIO:
        """The file of that digest, to read.

        Raises:
            NotFound: it is not here.
        """
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"No artifact {sha256}") from error

    def older_than(self, age_s: float) -> Iterator[str]:
        """The digests of all files that were written so long ago."""
        for path in self.root.glob("??/*"):
            if _DIGEST.fullmatch(path.name) and _age_s(path) >= age_s:
                yield path.name

    def remove(self, sha256: str, age_s: float) -> bool:
        """Remove a file unless it was written again since it was so old; whether it went."""
        path = self.path(sha256)
        if not path.is_file() or _age_s(path) < age_s:
            return False
        path.unlink(missing_ok=True)
        return True

    def sweep(self) -> int:
        """Remove what a crash left half written; how many files. Only while nothing is put."""
        left = list(self._tmp.iterdir())
        for file in left:
            file.unlink()
        return len(left)

    def _adopt(self, temporary: Path, sha256: str) -> None:
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        temporary.replace(target)
        _sync_folder(target.parent)
        _sync_folder(self.root)
        logger.debug("artifact.renamed", extra={"sha256": sha256})


def _write(file: BinaryIO, stream: Iterable[bytes], max_bytes: int | None) -> Stored:
    digest, n_bytes = hashlib.sha256(), 0
    for chunk in stream:
        n_bytes += len(chunk)
        if max_bytes is not None and n_bytes > max_bytes:
            raise TooLarge(f"more than {max_bytes} bytes came")
        digest.update(chunk)
        file.write(chunk)
    file.flush()
    os.fsync(file.fileno())
    return Stored(digest.hexdigest(), n_bytes)


def _age_s(path: Path) -> float:
    """Seconds since a file was written, by the clock of this machine, which wrote it."""
    return time.time_ns() / 1e9 - path.stat().st_mtime


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
