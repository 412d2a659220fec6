"""The trainer's C kernels: shipped in the wheel, else built once; loaded through ctypes.

Nothing here is needed for a right result, only for a fast one: every kernel has a version in torch
operations with the same bits (masks) or the same mathematics (optimizers).
"""

import ctypes
import functools
import hashlib
import importlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the wheel is built without torch
    import torch

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "dropout" / "kernels" / "dropt.c"
SHIPPED = SOURCE.with_suffix(".so")  # in wheels alone: a checkout builds what its source says
# Contraction off: a fused multiply-add rounds once where the torch version rounds twice. The other
# two change no result: nobody reads errno or the exception flags, and loops become vectors.
FLAGS = (
    "-O3", "-std=gnu11", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno",
    "-fno-trapping-math",
)  # fmt: skip
COMPILERS = ("cc", "gcc", "clang")
BUILD_TIMEOUT_S = 60.0  # 0.3 s is usual; a host that swaps may need far longer


class KernelUnavailable(Exception):
    """The kernels cannot be built or loaded here; the message says why, in one line."""


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The kernels with their argument types set, or None where they cannot be had.

    Logs one line, whichever way it went. `DROPT_NATIVE=0` in the environment turns them off.
    """
    try:
        if os.environ.get("DROPT_NATIVE") == "0":
            raise KernelUnavailable("turned off by DROPT_NATIVE=0")
        path, library = _load_shipped() or _load_from_cache()
    except KernelUnavailable as error:
        logger.warning("native.unavailable", extra={"why": str(error), "backend": "torch"})
        return None
    logger.info("native.ready", extra={"path": str(path)})
    return library


def build(path: Path) -> None:
    """Compile the kernels into a file of our own, then rename: others see all of it or nothing.

    Raises:
        KernelUnavailable: no compiler, or it failed.
    """
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise KernelUnavailable("no C compiler (cc, gcc or clang) on the PATH")
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    try:
        command = [compiler, *FLAGS, "-o", temporary, str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=BUILD_TIMEOUT_S)  # noqa: S603 (nothing of it comes from outside)
        os.replace(temporary, path)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise KernelUnavailable(lines[0][:300] if lines else "the compiler failed") from error
    except subprocess.TimeoutExpired as error:
        raise KernelUnavailable(f"the compiler took over {BUILD_TIMEOUT_S:.0f} s") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _load_shipped() -> tuple[Path, ctypes.CDLL] | None:
    """The library that came with the package; None without one for this system."""
    try:
        return SHIPPED, _declare(ctypes.CDLL(str(SHIPPED)))
    except (OSError, AttributeError):
        return None


@functools.cache
def load_triton(name: str, device: "torch.device") -> ModuleType | None:
    """A module of Triton kernels, compiled and run once on the device; None where that fails.

    Args:
        name: of the module; its `probe(device)` raises KernelUnavailable where it does not run.
        device: that the kernels are for.

    Logs one line then; the same is done in torch operations, only slower.
    """
    try:
        kernels = importlib.import_module(name)
        kernels.probe(device)
    except (ImportError, KernelUnavailable) as error:
        why = {"kernels": name, "why": str(error), "backend": "torch"}
        logger.warning("triton.unavailable", extra=why)
        return None
    return kernels


def _load_from_cache() -> tuple[Path, ctypes.CDLL]:
    """The library from the first cache folder that takes it, built there if it is missing."""
    failures = []
    for folder in _cache_folders():
        path = folder / f"dropt-{_build_key()}.so"
        try:
            _secure(folder)
            return path, _load_or_build(path)
        except (OSError, KernelUnavailable) as error:
            failures.append(f"{folder}: {' '.join(str(error).split())}")
    raise KernelUnavailable("; ".join(failures))


def _cache_folders() -> list[Path]:
    """Where built kernels are kept, in order of preference."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [Path(base) / "dropt", Path(tempfile.gettempdir()) / f"dropt-{os.getuid()}"]


def _build_key() -> str:
    """Names a build by all that it depends on: a home folder may be shared by unlike machines."""
    libc = "-".join(platform.libc_ver())
    text = "\n".join([*FLAGS, sys.platform, platform.machine(), libc]).encode()
    return hashlib.sha256(SOURCE.read_bytes() + text).hexdigest()[:16]


def _secure(folder: Path) -> None:
    """Make the folder; refuse one in which somebody else could have placed a library."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.stat()
    if info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KernelUnavailable("the folder can be written by others")


def _load_or_build(path: Path) -> ctypes.CDLL:
    """Load the library at `path`; build it when it is missing or does not load."""
    if path.exists():
        try:
            return _declare(ctypes.CDLL(str(path)))
        except (OSError, AttributeError):
            path.unlink()
    build(path)
    return _declare(ctypes.CDLL(str(path)))


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Set the types of arguments and results; pointers are passed as `tensor.data_ptr()`.

    Raises:
        AttributeError: a function is missing, so this is another version's library.
    """
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    number = ctypes.c_int32
    library.dropt_drop.argtypes = [pointer] * 5 + [size, number, number] + [size] * 3 + [number]
    library.dropt_drop.restype = number
    library.dropt_adamw.argtypes = [pointer] * 12 + [size] * 2
    library.dropt_adamw.restype = None
    library.dropt_sgd.argtypes = [pointer] * 10 + [size] * 2
    library.dropt_sgd.restype = None
    library.dropt_turn.argtypes = [pointer] * 2 + [size] * 4
    library.dropt_turn.restype = None
    return library
