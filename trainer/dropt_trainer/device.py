"""The device that a worker trains on: its choice, its name, its memory."""

import ctypes
import os
import platform
from dataclasses import dataclass
from typing import Literal

import torch

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2  # mallopt(3), glibc's malloc.h


@dataclass(frozen=True)
class Device:
    """Where a worker trains; memory is the whole, not what is free."""

    type: Literal["cpu", "cuda"]
    name: str
    memory_bytes: int


def choose(wanted: str | None = None) -> torch.device:
    """The device of that name, or the best one here: CUDA before the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    named = "cuda:0" if wanted == "cuda" else wanted
    if named not in here:
        raise ValueError(f"device is {wanted!r}, this machine has {', '.join(here)}")
    return torch.device(named)


def describe(device: torch.device) -> Device:
    """Type, name and memory of a device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Device("cuda", properties.name, properties.total_memory)
    return Device("cpu", _cpu_name(), _pages("SC_PHYS_PAGES"))


def free_memory(device: torch.device) -> int:
    """Bytes that can be had now, other processes considered."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return _pages("SC_AVPHYS_PAGES")


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory; False where it has no such setting.

    A step frees and asks for the same few megabytes again. By default glibc hands them back to the
    kernel in between, and the page faults were 15 % of a step (MLP 64-128-64-10, batch 64, 16
    slots, one core of a virtual machine).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 2**30, TOP_PAD: 16 * 2**20}
    return all(mallopt(setting, value) == 1 for setting, value in settings.items())


def _cpu_name() -> str:
    """The processor's name as Linux knows it, else the architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _pages(name: str) -> int:
    return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
