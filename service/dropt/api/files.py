"""Files as answers: named by their digest, in ranges where asked."""

import base64
from pathlib import Path

from fastapi.responses import FileResponse


def file_answer(path: Path, sha256: str) -> FileResponse:
    """The file with its digest (RFC 9530), which is its entity tag too."""
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    return FileResponse(
        path, media_type="application/octet-stream",
        headers={"ETag": f'"{sha256}"', "Repr-Digest": f"sha-256=:{digest}:"},
    )  # fmt: skip
