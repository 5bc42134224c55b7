"""Patches that another run left behind, as attacks that read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qpatchbench.component import Component, create
from qpatchbench.errors import ArtifactError
from qpatchbench.labels import LONGEST, is_label
from qpatchbench.registry import ATTACKS
from qpatchbench.runs.integrity import is_inside
from qpatchbench.runs.layout import MANIFEST
from qpatchbench.runs.manifest import read_manifest
from qpatchbench.runs.patch_file import read_patch

READER = "file"  # the attack whose patches are a file's


def stored_patches(folder: str) -> list[Component]:
    """One attack for every universal patch of a run that was crafted on a network, or came from elsewhere.

    Controls are made anew, and patches for single images are of use on those images alone: both are left out.

    Raises:
        ArtifactError: there is no such run, or it has no such patch.
    """
    path = Path(folder)
    if not (path / MANIFEST).is_file():
        runs = sorted(each.parent.name for each in path.parent.glob(f"*/{MANIFEST}"))
        hint = f" Runs there: {', '.join(runs[:10])}." if runs else ""
        raise ArtifactError(f"expected the folder of a finished run, found no {path.absolute() / MANIFEST}.{hint}")
    try:
        found = [*_attacks(path, read_manifest(path / MANIFEST))]
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        damage = f"{type(error).__name__}: {error}"
        raise ArtifactError(f"{path / MANIFEST}: expected the patches of a run, found others: {damage}") from None
    if not found:
        raise ArtifactError(f"{path}: expected a run with universal patches, found none that is no control")
    return found


def _attacks(path: Path, manifest: Mapping[str, Any]) -> Iterator[Component]:
    networks = {entry.get("network"): str(entry.get("label")) for entry in manifest.get("networks", ())}
    for entry in manifest.get("patches", ()):
        file, sources = str(entry.get("file")), entry.get("sources") or []
        if not is_inside(path, file) or not (sources or entry.get("origin")):
            continue
        stored = read_patch(path / file)
        if len(stored.textures) != len(stored.goals):
            continue
        name = str(entry.get("attack", {}).get("name"))
        label = f"{name} on {' + '.join(networks.get(source, source) for source in sources)}" if sources else name
        origin = str(entry.get("origin") or f"run {manifest.get('suite')}: {entry.get('label')}")
        yield create(
            ATTACKS,
            {
                "name": READER,
                "label": label if is_label(label) else f"{name} {entry.get('patch')}"[:LONGEST],
                "file": str(path / file),
                "origin": origin,
                "licence": str(entry.get("licence", "")),
            },
        )
