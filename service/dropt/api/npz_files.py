"""npz files of numpy: arrays `x` and `y`, optional `split` and `group`, never a pickle.

The directory of the zip and the headers of the arrays are read first, so that a file that would
unpack to more than is allowed, or lies about its size, is refused before anything is unpacked.
"""

import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from pydantic import ValidationError

from dropt.api.arrays import MAX_CLASSES, MAX_INTEGER_CLASSES, Array, DataArrays, unreadable
from dropt.errors import TooLarge
from dropt.spec.job import Task
from dropt.spec.nearest import did_you_mean
from dropt.spec.record import Answer

MAX_MEMBERS = 16
MAX_RATIO = 200  # of sizes; real arrays of zeros and ones reach about 100
RATIO_MATTERS_BYTES = 64 << 20
MAX_CODE = 2**53  # floats beyond it skip whole numbers
MAX_META_BYTES = 4 << 20
MAX_DIRECTORY_BYTES = 1 << 16
# numpy repairs headers of Python 2 by tokenizing them, which fails in ways of its own.
_HEADER_ERRORS = (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError)
_END = struct.Struct("<4s4H2LH")  # the end record of a zip (APPNOTE 4.3.16)
_END_SEARCHED = (1 << 16) + 22  # a comment may follow it
_SAVE = "Write it with numpy.savez(file, x=x, y=y)"
_KNOWN = ("x", "y", "split", "group", "meta")
_KINDS = {"x": "biuf", "y": "biufUS", "split": "biu", "group": "iu", "meta": "U"}
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(file: BinaryIO, *, task: Task | None, max_columns: int, max_bytes: int) -> DataArrays:
    """The data set in an npz file.

    `x` is float [N, ...] or int64 token ids [N, T]; other integers count as numbers. Text and
    whole numbers with at most 20 different values in `y` are classes, else it is a regression;
    `task` overrides. For `next_token` both are token ids [N, T].

    Raises:
        DatasetUnreadable: it holds objects, arrays that do not fit together, or no data set.
        TooLarge: its arrays unpack to more than `max_bytes`.
    """
    _check_end(file)
    try:
        with zipfile.ZipFile(file) as archive:
            _check_directory(archive, max_bytes)
            arrays = {
                info.filename.removesuffix(".npy"): _read_array(archive, info)
                for info in archive.infolist()
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise unreadable(f"This is no npz file: {error}", _SAVE) from error
    return _assembled(arrays, task, max_columns)


def _check_end(file: BinaryIO) -> None:
    """Whether the directory of the zip is small: reading a long one takes gigabytes."""
    n_bytes = file.seek(0, 2)
    file.seek(max(0, n_bytes - _END_SEARCHED))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + _END.size:
        raise unreadable("This is no npz file, or its end is cut off", _SAVE)
    _, _, _, _, n_members, directory_bytes, _, _ = _END.unpack_from(tail, at)
    is_zip64 = b"PK\x06\x07" in tail[max(0, at - 20) : at]
    if is_zip64 or n_members > MAX_MEMBERS or directory_bytes > MAX_DIRECTORY_BYTES:
        raise unreadable(f"More than {MAX_MEMBERS} arrays or 4 GB", _SAVE)


def _check_directory(archive: zipfile.ZipFile, max_bytes: int) -> None:
    members = archive.infolist()
    names = [member.filename for member in members]
    for name in names:
        _check_name(name)
    if len(set(names)) != len(names):
        raise unreadable("Two arrays have the same name", _SAVE)
    if missing := [name for name in ("x", "y") if f"{name}.npy" not in names]:
        raise unreadable(
            f"Array '{missing[0]}' is missing", _SAVE,
            received=", ".join(name.removesuffix(".npy") for name in names),
            allowed=_KNOWN[:4],
        )  # fmt: skip
    n_bytes = sum(member.file_size for member in members)
    if n_bytes > max_bytes:
        raise TooLarge(f"The arrays unpack to {n_bytes:,} bytes, at most {max_bytes:,} are read")
    packed = sum(member.compress_size for member in members)
    if n_bytes > RATIO_MATTERS_BYTES and n_bytes > MAX_RATIO * max(packed, 1):
        raise TooLarge(
            f"The arrays unpack to {n_bytes // max(packed, 1):,} times their size, at most "
            f"{MAX_RATIO} are read; save them with numpy.savez, uncompressed"
        )


def _check_name(filename: str) -> None:
    name = filename.removesuffix(".npy")
    if name == filename or "/" in name:
        raise unreadable(
            "The file is a zip, but not one of numpy arrays",
            f"{_SAVE}, or save a spreadsheet as CSV", received=filename,
        )  # fmt: skip
    if name not in _KNOWN:
        raise unreadable(
            f"Unknown array.{did_you_mean(name, _KNOWN[:4])}", "Leave it out or rename it",
            received=name, allowed=_KNOWN[:4],
        )  # fmt: skip


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    name = info.filename.removesuffix(".npy")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise unreadable(f"Array '{name}' is encrypted or compressed in an unusual way", _SAVE)
    try:
        with archive.open(info) as member:
            _check_header(name, member, info.file_size)
        with archive.open(info) as member:
            return np.lib.format.read_array(member, allow_pickle=False)
    except _HEADER_ERRORS as error:
        raise unreadable(f"Array '{name}' is damaged: {error}", _SAVE) from error


def _check_header(name: str, member: Any, n_bytes: int) -> None:
    """Whether the header tells an array of an allowed type that fills the member exactly."""
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the npy format")
    shape, _, dtype = _HEADERS[version](member)
    if dtype.hasobject:
        raise unreadable(
            f"Array '{name}' holds Python objects, which are pickles and are never loaded",
            "Give an array of numbers: astype(numpy.float32)", received=str(dtype),
        )  # fmt: skip
    if dtype.kind not in _KINDS[name]:
        raise unreadable(
            f"Array '{name}' holds {dtype}", "Give numbers; y may hold text", received=str(dtype)
        )
    if name == "meta" and n_bytes > MAX_META_BYTES:
        raise unreadable("Array 'meta' is too large", "Leave it out")
    declared = math.prod(shape) * dtype.itemsize + member.tell()
    if min(shape, default=0) < 0 or declared != n_bytes:
        raise ValueError(f"its header tells {declared:,} bytes, it has {n_bytes:,}")


def _assembled(arrays: Mapping[str, Array], task: Task | None, max_columns: int) -> DataArrays:
    n_rows = _check_rows(arrays)
    if n_rows == 0:
        raise unreadable("The arrays have no rows", "Give at least ten")
    meta = _meta(arrays.get("meta"))
    x = _inputs(arrays["x"], max_columns)
    task = task or meta.task
    targets = (
        _next_tokens(x, arrays["y"], meta)
        if task == "next_token"
        else _targets(arrays["y"], task, meta)
    )
    return DataArrays(
        task=targets.task, x=x, y=targets.y,
        class_names=targets.class_names, features=meta.features, target=meta.target,
        split=_split(arrays.get("split")), group=_group(arrays.get("group")),
    )  # fmt: skip


def _check_rows(arrays: Mapping[str, Array]) -> int:
    rows = {
        name: len(array) if array.ndim else 0 for name, array in arrays.items() if name != "meta"
    }
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {n:,}" for name, n in rows.items())
        raise unreadable(
            f"The arrays have different numbers of rows: {counts}", "Give one entry per example"
        )
    return rows["x"]


def _inputs(x: Array, max_columns: int) -> Array:
    if x.ndim == 1 or x[0].size == 0:
        raise unreadable(
            f"Array 'x' has the shape {x.shape}, which holds no features",
            "Give [N, ...]; for one feature x[:, None]",
        )
    if x.ndim == 2 and x.shape[1] > max_columns:
        raise unreadable(f"{x.shape[1]:,} columns, at most {max_columns:,} are read",
                         "Leave out what the model does not need")  # fmt: skip
    if x.dtype == np.int64 and x.ndim == 2:
        if bool((x < 0).any()):
            raise unreadable("Array 'x' is int64, which means token ids, and is below 0 somewhere",
                             "Save numbers as float32: x.astype('float32')")  # fmt: skip
        return x
    return _float32("x", x)


def _float32(name: str, array: Array) -> Array:
    with np.errstate(over="ignore"):
        plain = array.astype(np.float32)
    finite = np.isfinite(plain)
    if not finite.all():
        row = int(np.argmin(finite.reshape(len(plain), -1).all(axis=1)))
        raise unreadable(
            f"Array '{name}' is not finite (or beyond float32) at index {row}",
            "Fill in or leave out such rows", row=row + 1,
        )  # fmt: skip
    return plain


class _Meta(Answer):
    """What a file of ours says beside its arrays, when it comes back."""

    task: Task | None = None
    class_names: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    target: str | None = None


def _meta(array: Array | None) -> _Meta:
    if array is None:
        return _Meta()
    try:
        return _Meta.model_validate_json(str(array[()]))
    except ValidationError as error:
        raise unreadable("Array 'meta' is none of dropt's", "Leave it out") from error


@dataclass(frozen=True)
class _Targets:
    """The targets with the task that they mean."""

    task: Task
    y: Array
    class_names: tuple[str, ...] = ()


def _targets(y: Array, task: Task | None, meta: _Meta) -> _Targets:
    is_text = y.dtype.kind in "US"
    numbers = y if is_text else _float32("y", y)
    is_whole = not is_text and bool(
        ((numbers == np.floor(numbers)) & (np.abs(numbers) < MAX_CODE)).all()
    )
    if task is None:
        is_integer = y.dtype.kind in "biu" and y.ndim == 1
        few = is_integer and len(np.unique(y)) <= MAX_INTEGER_CLASSES
        task = "classification" if is_text or few else "regression"
    if task == "regression":
        if is_text:
            raise unreadable("Array 'y' holds text, which is no quantity",
                             "Say task=classification, or give numbers")  # fmt: skip
        return _Targets("regression", numbers)
    if y.ndim != 1:
        raise unreadable(f"Array 'y' has the shape {y.shape}",
                         "A classification needs one class per row: [N]")  # fmt: skip
    if not is_text and not is_whole:
        raise unreadable("Array 'y' holds fractions, which are no classes",
                         "Say task=regression, or give whole numbers or text")  # fmt: skip
    return _classes(y, meta)


def _next_tokens(x: Array, y: Array, meta: _Meta) -> _Targets:
    """The token that follows each of `x`; tokens are named by their numbers, or by `meta`."""
    if x.dtype != np.int64 or x.shape != y.shape or y.dtype.kind not in "iu":
        raise unreadable(
            f"Array 'x' is {x.dtype} {x.shape} and 'y' is {y.dtype} {y.shape}",
            "For next_token give int64 token ids [N, T] in both: y[:, t] follows x[:, t]",
        )
    if bool((y < 0).any()):
        raise unreadable("Array 'y' is below 0 somewhere", "Token ids count from 0")
    n_tokens = int(max(x.max(), y.max())) + 1
    names = meta.class_names
    if len(names) < n_tokens:
        if n_tokens > MAX_CLASSES:
            raise unreadable(
                f"The largest token id is {n_tokens - 1:,}, at most {MAX_CLASSES - 1:,} is read",
                "Number the tokens that occur from 0",
            )
        names = tuple(str(token) for token in range(n_tokens))
    return _Targets("next_token", y.astype(np.int64), names)


def _classes(y: Array, meta: _Meta) -> _Targets:
    values = y.astype(np.int64) if y.dtype.kind in "bf" else y
    distinct, codes = np.unique(values, return_inverse=True)
    names = tuple(_name(value) for value in distinct.tolist())
    if meta.class_names and names == tuple(str(code) for code in range(len(meta.class_names))):
        names = meta.class_names
    return _Targets("classification", codes.astype(np.int64), names)


def _name(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _split(array: Array | None) -> Array | None:
    if array is None:
        return None
    if array.ndim != 1 or not np.isin(array, (0, 1, 2)).all():
        raise unreadable("Array 'split' holds something else than 0, 1 and 2",
                         "One number per row: 0 trains, 1 validates, 2 tests")  # fmt: skip
    return array.astype(np.uint8)


def _group(array: Array | None) -> Array | None:
    if array is None:
        return None
    if array.ndim != 1 or bool((array > np.iinfo(np.int64).max).any()):
        raise unreadable("Array 'group' is not one int64 per row", "Number the groups")
    return array.astype(np.int64)
