"""Peak of memory that a process or its accelerator had while a job ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CONTEXT = 600_000_000  # bytes that an accelerator holds for a process: its context, and what its libraries work with
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK_ONLY = "5"  # what makes Linux forget the highest resident size so far


@dataclass
class Peak:
    """Most bytes, None where nobody knows: of the process alone, without files that others map too."""

    bytes: int | None = None


@contextmanager
def observed_peak(device: torch.device) -> Iterator[Peak]:
    """Filled when the context ends: of an accelerator what torch took of it, of the CPU what was resident."""
    import torch

    peak = Peak()
    if device.type == "cpu":
        known = _forgotten()
        yield peak
        peak.bytes = _resident() if known else None
        return
    memory = torch.get_device_module(device)
    if not hasattr(memory, "max_memory_reserved"):
        yield peak
        return
    memory.reset_peak_memory_stats(device)
    yield peak
    peak.bytes = int(memory.max_memory_reserved(device)) + CONTEXT


def _forgotten() -> bool:
    try:
        _FORGET.write_text(_PEAK_ONLY)
    except OSError:  # another system, or a container that does not let a process write there
        return False
    return True


def _resident() -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    names = ("VmHWM", "RssFile", "RssShmem")
    if not all(sizes.get(name, "").isdigit() for name in names):
        return None
    highest, mapped, shared = (1024 * int(sizes[name]) for name in names)
    return max(0, highest - mapped - shared)
