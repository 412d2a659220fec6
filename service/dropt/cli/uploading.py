"""From `--dataset` to the name of a data set: a name stays one, a file is uploaded."""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dropt.cli.problems import Refused
from dropt.client import Client
from dropt.errors import NameTaken

SUFFIXES = (".csv", ".npz")
DIGEST_LENGTH = 8
MAX_STEM = 100


@dataclass(frozen=True)
class FileDataset:
    """A file with what its content does not say: the target column and the task."""

    path: Path
    target: str | None = None
    task: str | None = None

    def name(self) -> str:
        """Stem and a short digest of content, target and task: another content, another name."""
        digest = hashlib.sha256(f"{self.target}\n{self.task}\n".encode())
        digest.update(self.path.read_bytes())
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.path.stem)[:MAX_STEM].strip("-.") or "data"
        return f"{stem}-{digest.hexdigest()[:DIGEST_LENGTH]}"


def as_file(text: str, target: str | None, task: str | None) -> FileDataset | None:
    """The file that is meant, None when `text` is the name of a data set.

    Raises:
        Refused: it looks like a file and is none that can be read, or options fit no name.
    """
    path = Path(text)
    if path.is_dir():
        raise Refused(f"{text} is a folder; give a csv or npz file, or the name of a data set.")
    if path.suffix.lower() not in SUFFIXES:
        if path.is_file():
            raise Refused(f"{text} is no data set; csv and npz files are read.")
        if target is not None or task is not None:
            raise Refused(f"--target and --task are for files; {text!r} is a name.")
        return None
    if not path.is_file():
        raise Refused(f"There is no file {text}.")
    if path.suffix.lower() == ".csv" and target is None:
        raise Refused(f"Name the column to predict in {text} with --target COLUMN.")
    return FileDataset(path, target, task)


def upload(client: Client, file: FileDataset) -> str:
    """Upload the file unless the service has it, and return its name."""
    name = file.name()
    with suppress(NameTaken):  # the name holds the digest, so this is the same content
        client.add_dataset(file.path, name=name, target=file.target, task=file.task)
    return name
