"""The origin of a result: versions, revision, device.

Kept beside every artifact; never part of a key.
"""

from __future__ import annotations

import functools
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qpatchbench

if TYPE_CHECKING:
    import torch

PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "safetensors", "lightning-fabric", "pydantic"),
    *("matplotlib", "pillow"),
)


def provenance(seconds: float, device: torch.device) -> dict[str, Any]:
    """Facts about this process and the device it computes on, and how long a job took."""
    return {
        "seconds": round(seconds, 3),
        "device": device_name(device),
        "ran_on": ran_on(device),
        "git": git_state(),
        "versions": versions(),
    }


def ran_on(device: torch.device) -> dict[str, str]:
    """What the last bits of a result depend on besides the code: sums are taken in another order elsewhere."""
    import torch

    from qpatchbench.ops.devices import name_of

    return {
        "processor": _processor(),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "torch": versions()["torch"],
        "device": name_of(device),
    }


def mixture(places: Iterable[Mapping[str, str]]) -> str:
    """What differs between the places where the jobs of a run were computed, in one line; "" where nothing does.

    >>> mixture([{"threads": "1", "torch": "2.12"}, {"threads": "2", "torch": "2.12"}])
    'threads: 1 (1 jobs), 2 (1 jobs)'
    """
    found = [dict(place) for place in places]
    names = dict.fromkeys(name for place in found for name in place)
    counts = {name: Counter(place.get(name, "unknown") for place in found) for name in names}
    return "; ".join(
        f"{name}: {', '.join(f'{value} ({count} jobs)' for value, count in sorted(each.items()))}"
        for name, each in counts.items()
        if len(each) > 1
    )


@functools.cache
def versions() -> dict[str, str]:
    """Versions of qpatchbench, Python and the packages that compute."""
    found = {"qpatchbench": qpatchbench.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


@functools.cache
def git_state() -> dict[str, Any]:
    """Revision of this package's checkout and whether it has uncommitted changes; empty outside a checkout."""
    root = Path(qpatchbench.__file__).parent.parent
    if not (root / ".git").exists():
        return {"revision": "", "dirty": False}
    try:
        revision = _git(root, "rev-parse", "HEAD")
        return {"revision": revision, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"revision": "", "dirty": False}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's and its cores."""
    import torch

    from qpatchbench.ops.devices import name_of

    if device.type != "cpu":
        return name_of(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
