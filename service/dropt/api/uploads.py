"""From an uploaded form to a data set in its canonical form."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO, BinaryIO, get_args

from starlette.datastructures import FormData, UploadFile

from dropt.api.arrays import DataArrays, check_content, offer_of, unreadable, write_canonical
from dropt.api.csv_files import read_csv
from dropt.api.npz_files import read_npz
from dropt.api.validation import invalid, unknown_name
from dropt.errors import FieldError, InvalidRequest
from dropt.settings import Settings
from dropt.spec.job import Task
from dropt.spec.protocol import DatasetOffer
from dropt.spec.record import MAX_TEXT

FIELDS = ("file", "name", "target", "task")
COMMAND = "curl -F file=@FILE.csv -F target=COLUMN -F name=NAME URL"
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_TEXT - 1}}}")
_ZIP, _NPY = b"PK", b"\x93NUMPY"


@dataclass(frozen=True)
class Upload:
    """The fields of the form, checked."""

    file: BinaryIO
    name: str
    target: str | None
    task: Task | None


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready to be stored: its description, and its canonical file."""

    offer: DatasetOffer
    content: IO[bytes]


def upload_of(form: FormData) -> Upload:
    """The upload in a multipart form.

    Raises:
        InvalidRequest: a field is missing, unknown or not what is allowed.
    """
    errors = [unknown_name(f"/{name}", name, FIELDS, what="field")
              for name in form if name not in FIELDS]  # fmt: skip
    file = form.get("file")
    if not isinstance(file, UploadFile):
        message = f"The file is missing. Send it as a form: {COMMAND}"
        raise invalid([*errors, FieldError("/file", "missing-field", message)])
    name = _text(form, "name") or _name_from(file.filename)
    task = _text(form, "task")
    if not _NAME.fullmatch(name):
        message = "Letters, digits, '.', '_' and '-' are allowed, at most 200, a letter first."
        errors.append(FieldError("/name", "out-of-range", message, name))
    if task is not None and task not in get_args(Task):
        allowed = get_args(Task)
        errors.append(FieldError("/task", "unknown-value", f"Must be {' or '.join(allowed)}.",
                                 task, allowed))  # fmt: skip
    if errors:
        raise invalid(errors)
    known_task: Task | None = next((each for each in get_args(Task) if each == task), None)
    return Upload(file.file, name, _text(form, "target"), known_task)


@contextmanager
def prepared(upload: Upload, settings: Settings) -> Iterator[Prepared]:
    """The data set in its canonical form; its file is gone after the block.

    Raises:
        DatasetUnreadable: with row and column where they are known.
        TooLarge: decoded, it is larger than a limit.
    """
    data = _read(upload, settings)
    check_content(data)
    with tempfile.TemporaryFile() as file:
        sha256 = write_canonical(data, file)
        yield Prepared(offer_of(data, name=upload.name, sha256=sha256), file)


def _read(upload: Upload, settings: Settings) -> DataArrays:
    file, max_bytes = upload.file, settings.limit_decoded_bytes
    start = file.read(len(_NPY))
    file.seek(0)
    if not start:
        raise unreadable("The file is empty", "Give a csv file with a header, or an npz file")
    if start == _NPY:
        raise unreadable(
            "This is one array; a data set needs x and y", "Write numpy.savez(file, x=x, y=y)"
        )
    if not start.startswith(_ZIP):
        return read_csv(
            file, target=upload.target, task=upload.task, max_columns=settings.limit_columns,
            max_bytes=max_bytes,
        )  # fmt: skip
    if upload.target is not None:
        raise InvalidRequest.of(
            FieldError("/target", "out-of-range",
                       "An npz file names its target 'y'; leave this field out.", upload.target)
        )  # fmt: skip
    return read_npz(
        file, task=upload.task, max_columns=settings.limit_columns, max_bytes=max_bytes
    )


def _text(form: FormData, name: str) -> str | None:
    """A field of the form; an empty one counts as left out."""
    value = form.get(name)
    if isinstance(value, UploadFile):
        raise InvalidRequest.of(
            FieldError(f"/{name}", "wrong-type", "Must be a text, not a file.")
        )
    return value or None


def _name_from(filename: str | None) -> str:
    stem = PurePath((filename or "").replace("\\", "/")).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:MAX_TEXT] or "data"
