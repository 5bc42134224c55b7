"""Made-up installed distributions: a folder of metadata beside a module is all that Python asks for."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from qpatchbench.registry import LOADED, REGISTRIES

LIBRARIES = (
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    *(path for path in sys.path if Path(path).name == "site-packages"),  # those of an environment around this one
)
SOFT = '''
from typing import ClassVar

import torch
from pydantic import Field

from qpatchbench.defenses.base import Defense
from qpatchbench.types import FLOAT


class Soft(Defense):
    """Training on labels
    that are never sure. One float network.
    """

    quantization_aware: ClassVar[bool] = False
    reference: ClassVar[str] = "Szegedy et al. 2016, arXiv 1512.00567"
    smoothing: float = Field(default=0.1, ge=0, lt=1, description="share of the label that all classes get")

    def bit_groups(self, bits):
        return ((FLOAT,),)

    def loss(self, network, batch, step):
        logits = network.at(FLOAT)(batch.images)
        return {"soft": torch.nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)}
'''


def distribution(folder: Path, name: str, version: str, kind: str, entries: Mapping[str, str]) -> None:
    """Write name-version.dist-info, which registers `entries` (name -> "module:Class") as components of a kind."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("")
    lines = "".join(f"{key} = {target}\n" for key, target in entries.items())
    (info / "entry_points.txt").write_text(f"[qpatchbench.{kind}]\n{lines}")


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files by their path below the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@contextmanager
def as_if_started_now() -> Iterator[None]:
    """Registries that have looked for nothing yet, and afterwards modules and registries as they were before."""
    modules, found = set(sys.modules), {name: dict(vars(registry)) for name, registry in REGISTRIES.items()}
    for registry in REGISTRIES.values():
        vars(registry).pop("entries", None)
        vars(registry).pop("outside", None)
    try:
        with patch.dict(LOADED):
            yield
    finally:
        for name, registry in REGISTRIES.items():
            vars(registry).clear()
            vars(registry).update(found[name])
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None) or LIBRARIES[0]
            if not (name.startswith("qpatchbench") or file.startswith(LIBRARIES)):
                del sys.modules[name]
