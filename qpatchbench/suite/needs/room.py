"""Room that is left: on the disk of a folder, and in the memory of the machine or of its accelerator."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MEMORY = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written below a folder, which need not be there yet."""
    return shutil.disk_usage(existing(folder)).free


def on_one_disk(first: Path, second: Path) -> bool:
    """Whether two folders fill the same disk."""
    return os.stat(existing(first)).st_dev == os.stat(existing(second)).st_dev


def available_bytes(device: torch.device) -> int | None:
    """Bytes that a new process could take where it computes, without another having to give any; None: not known."""
    if device.type == "cpu":
        return available_memory()
    import torch

    told = getattr(torch.get_device_module(device), "mem_get_info", None)
    return None if told is None else int(told(device)[0])


def whole_bytes(device: torch.device) -> int | None:
    """Bytes of an accelerator's whole memory; None for the CPU, and where nobody knows."""
    import torch

    told = None if device.type == "cpu" else getattr(torch.get_device_module(device), "mem_get_info", None)
    return None if told is None else int(told(device)[1])


def available_memory() -> int | None:
    """Of the machine, or of the share of it that its control group leaves this process; None: not known."""
    found = [each for each in (_of_machine(), _of_group()) if each is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    try:
        lines = _MEMORY.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _of_group() -> int | None:
    """What a control group (version 2) allows beside what it holds; cached files can be dropped."""
    try:
        most, held = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        lines = (_GROUP / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return None if most == "max" else max(0, int(most) - int(held) + cached)
    except (OSError, ValueError, StopIteration):
        return None
