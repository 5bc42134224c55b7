"""The passport of a patch: who made it, on what, for which class, from which images, under which licence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpatchbench.errors import ArtifactError, suggestion
from qpatchbench.runs.integrity import is_inside
from qpatchbench.runs.layout import MANIFEST
from qpatchbench.runs.manifest import read_manifest
from qpatchbench.runs.patch_file import StoredPatch, read_patch

CODE = ("class", "version", "name")  # of an attack's identity; the rest are its fields


@dataclass(frozen=True)
class TravellingPatch:
    """A patch of a run with its passport.

    Attributes:
        name: of its files, without an ending: attack, bits and key.
        stored: textures and masks.
        passport: JSON-ready facts, in the order in which people read them.
    """

    name: str
    stored: StoredPatch
    passport: Mapping[str, Any]


def travelling(folder: Path, attacks: Sequence[str] = (), licence: str = "") -> list[TravellingPatch]:
    """The patches of a run folder, or those of some attacks; controls, which anybody can draw, are left out.

    Args:
        folder: of the run.
        attacks: names; none: all.
        licence: under which patches may be passed on that say nothing of it themselves.

    Raises:
        ArtifactError: it is no run, or has no such patch.
    """
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(f"expected the folder of a finished run, found no {folder / MANIFEST}")
    try:
        found = [*_chosen(folder, read_manifest(folder / MANIFEST), attacks)]
    except (KeyError, TypeError, AttributeError) as error:
        damage = f"{type(error).__name__}: {error}"
        raise ArtifactError(f"{folder / MANIFEST}: expected the patches of a run, found others: {damage}") from None
    if not found:
        raise ArtifactError(f"{folder}: expected patches that are no controls, found none")
    return [TravellingPatch(each.name, each.stored, _licensed(each.passport, licence)) for each in found]


def _chosen(folder: Path, manifest: Mapping[str, Any], attacks: Sequence[str]) -> Iterator[TravellingPatch]:
    entries = [entry for entry in manifest.get("patches", ()) if entry.get("sources") or entry.get("origin")]
    known = {str(entry["attack"]["name"]) for entry in entries}
    for name in attacks:
        if name not in known:
            raise ArtifactError(f"{folder}: no patch of the attack {name!r}.{suggestion(name, known)}")
    wanted = [entry for entry in entries if not attacks or entry["attack"]["name"] in attacks]
    yield from _patches(folder, manifest, wanted)


def _licensed(passport: Mapping[str, Any], licence: str) -> dict[str, Any]:
    return {**passport, "licence": passport["licence"] or licence}


def _patches(
    folder: Path, manifest: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> Iterator[TravellingPatch]:
    networks = {entry["network"]: entry for entry in manifest.get("networks", ())}
    for entry in entries:
        if not is_inside(folder, str(entry["file"])):
            raise ArtifactError(f"{folder}: expected a patch file within the run, found {entry['file']}")
        stored = read_patch(folder / entry["file"])
        sources = [networks.get(key, {"label": key, "bits": ""}) for key in entry["sources"]]
        bits = "+".join(dict.fromkeys(str(source["bits"]) for source in sources)) or "elsewhere"
        # Of a stranger's manifest, whose names lead to no other folder.
        name = re.sub(r"[^\w+-]+", "_", f"{entry['attack']['name']}-{bits}-{entry['patch']}")
        yield TravellingPatch(name, stored, _facts(manifest, entry, stored))


def _facts(manifest: Mapping[str, Any], entry: Mapping[str, Any], stored: StoredPatch) -> dict[str, Any]:
    networks = {each["network"]: each for each in manifest.get("networks", ())}
    sources = [networks.get(key, {"label": key, "bits": ""}) for key in entry["sources"]]
    classes = manifest.get("class_names", [])
    targets = [int(goal) if goal.isdecimal() else goal for goal in stored.goals]
    count, _, height, width = stored.textures.shape
    images = manifest.get("images", {})
    return {
        "attack": entry["attack"]["name"],
        "fields": {name: value for name, value in entry["attack"].items() if name not in CODE},
        "seed": entry["seed"],
        "crafted on": [source["label"] for source in sources],
        "bits": [source["bits"] for source in sources],
        "targets": targets,
        "target names": [classes[each] if isinstance(each, int) and each < len(classes) else each for each in targets],
        "pixels": f"{height}x{width}",
        "patches": count,
        "images": f"{images.get('craft', 0)} of {manifest.get('dataset_note', '')} to learn from" if sources else "",
        "origin": entry.get("origin") or f"run {manifest.get('suite')}",
        "licence": entry.get("licence", ""),
        "key": entry["key"],
        "sha256": entry["sha256"],
        "made with": manifest.get("versions", {}).get("qpatchbench", ""),
    }
