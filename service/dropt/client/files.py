"""Files by the SHA-256 of their bytes."""

import hashlib
from pathlib import Path

from dropt.client.connection import (
    FILE_TIMEOUT_S,
    Connection,
    part,
    raise_problem,
    reaching,
)
from dropt.errors import DigestMismatch, NotFound

CHUNK_BYTES = 1 << 20


class Files(Connection):
    """Uploads and downloads that are checked by their digest."""

    def put_artifact(self, content: bytes) -> str:
        """Upload a file unless the service has it; the digest that names it."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.has_artifact(sha256):
            self._send("PUT", f"/v1/artifacts/{sha256}", content=content, timeout=FILE_TIMEOUT_S)
        return sha256

    def has_artifact(self, sha256: str) -> bool:
        try:
            self._send("HEAD", f"/v1/artifacts/{part(sha256)}")
        except NotFound:
            return False
        return True

    def fetch(self, path: str, sha256: str, target: Path) -> None:
        """Download what `path` names to a new file.

        Raises:
            DigestMismatch: other bytes came than `sha256` names; nothing is left at `target`.
        """
        digest = hashlib.sha256()
        partial = target.with_name(f"{target.name}.part")
        with reaching(self.url), self._http.stream("GET", path) as response:
            raise_problem(response)
            with partial.open("wb") as file:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
        if digest.hexdigest() != sha256:
            partial.unlink()
            raise DigestMismatch(f"{path} has SHA-256 {digest.hexdigest()}, expected {sha256}")
        partial.replace(target)
