"""Patches of a run as files that other tools read: PNG, npy or safetensors, a contact sheet, and their passports."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as serialize_tensors

from qpatchbench.errors import OutputError
from qpatchbench.report.exchange.passport import TravellingPatch
from qpatchbench.runs.files import write_atomically
from qpatchbench.statistics.intervals import Array

KINDS = ("png", "npy", "safetensors")
PASSPORTS, SHEET = "passports.json", "contact-sheet.png"
SHOWN = 10  # patches of one kind on the contact sheet
OPAQUE = 255


def export_patches(found: Sequence[TravellingPatch], folder: Path, kind: str, *, overwrite: bool = False) -> list[Path]:
    """Write every patch, a contact sheet and one file of passports; returns their paths.

    A .png has the mask as transparency, one file a patch; a .npy is (P, 3, h, w) float32 in [0, 1], with the mask in a
    second one where it does not cover all; a .safetensors holds textures, masks, targets and its passport.

    Raises:
        OutputError: the folder holds such files already.
        StorageError: the disk refuses.
    """
    files = {name: data for each in found for name, data in _files(each, kind)}
    names = [*files, SHEET, PASSPORTS]
    there = next((name for name in names if (folder / name).exists()), None)
    if there is not None and not overwrite:
        raise OutputError(f"{folder / there}: already there; choose another --out, or overwrite it with --force")
    passports = [{"files": [*dict(_files(each, kind))], **each.passport} for each in found]
    files |= {SHEET: _sheet(found), PASSPORTS: (json.dumps(passports, indent=1) + "\n").encode()}
    return [write_atomically(folder / name, data) for name, data in files.items()]


def _files(patch: TravellingPatch, kind: str) -> Iterator[tuple[str, bytes]]:
    stored, partial = patch.stored, not (patch.stored.masks == 1).all()
    match kind:
        case "png":
            each = len(stored.textures) // max(1, len(stored.goals))
            for index, (texture, mask) in enumerate(zip(stored.textures, stored.masks, strict=True)):
                goal = stored.goals[index // each] if stored.goals else str(index)
                image = f"-image{index % each}" if each > 1 else ""
                yield f"{patch.name}-{goal}{image}.png", _png(texture, mask)
        case "npy":
            yield f"{patch.name}.npy", _npy(stored.textures.astype(np.float32) / np.float32(OPAQUE))
            if partial:
                yield f"{patch.name}.mask.npy", _npy(stored.masks.astype(np.float32))
        case _:
            metadata = {"goals": json.dumps(list(stored.goals)), "passport": json.dumps(patch.passport)}
            arrays = {"textures": stored.textures, "masks": stored.masks}
            yield f"{patch.name}.safetensors", _tensors(arrays, metadata)


def _tensors(arrays: Mapping[str, Array], metadata: dict[str, str]) -> bytes:
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data: bytes = serialize_tensors(contiguous, metadata=metadata)
    return data


def _png(texture: Array, mask: Array) -> bytes:
    """(3, h, w) uint8 and (1, h, w) of zeros and ones as a picture."""
    from PIL import Image

    pixels: Any = np.moveaxis(np.concatenate([texture, OPAQUE * mask.astype(np.uint8)]), 0, -1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels if (mask == 0).any() else pixels[..., :3])).save(buffer, "PNG")
    return buffer.getvalue()


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _sheet(found: Sequence[TravellingPatch]) -> bytes:
    """All of them on one picture: a row for each, what made it at the left."""
    from qpatchbench.report.figures.drawing.mosaic import Tile, mosaic

    rows = []
    for each in found:
        goals, textures = each.stored.goals, each.stored.textures
        per_goal = len(textures) // max(1, len(goals))
        tiles = [
            Tile(_shown(texture, mask), goals[index // per_goal] if goals else "")
            for index, (texture, mask) in enumerate(zip(textures[:SHOWN], each.stored.masks[:SHOWN], strict=True))
        ]
        made_on = " + ".join(each.passport["crafted on"]) or each.passport["origin"]
        rows.append((f"{each.passport['attack']} {each.passport['pixels']}\n{made_on}", tiles))
    figure = mosaic("patches, with the class that each is for", rows, [], f"the first {SHOWN} of each at most")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _shown(texture: Array, mask: Array) -> Array:
    """(h, w, 3) uint8, white where nothing is covered."""
    seen: Array = np.moveaxis(np.where(mask > 0, texture, np.uint8(OPAQUE)), 0, -1)
    return seen
