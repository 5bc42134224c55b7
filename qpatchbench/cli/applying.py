"""Stored patches, pictures, and the one pasted on the other: what `qpatchbench apply` works with."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpatchbench.errors import QPatchBenchError, suggestion

if TYPE_CHECKING:
    import numpy as np

NAMED = 5  # files of a folder that a message names


@dataclass(frozen=True)
class StoredPatch:
    """What a patch file holds.

    Attributes:
        path: where it lies.
        textures: (P, 3, h, w) uint8; goal after goal, and image after image where they were crafted for one each.
        masks: (P, 1, h, w) of zeros and ones.
        goals: class ids or "untargeted"; empty where the file names none.
        places: rows and columns, (P,) int64 each, where the attack chose them.
    """

    path: Path
    textures: np.ndarray[Any, Any]
    masks: np.ndarray[Any, Any]
    goals: tuple[str, ...]
    places: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None


@dataclass(frozen=True)
class Picture:
    """A decoded image, (H, W, 3) uint8, and the file that its patched copy goes to."""

    path: Path
    output: Path
    pixels: np.ndarray[Any, Any]


def read_patch(path: Path) -> StoredPatch:
    """Read a patch file; goals come from its metadata or from the JSON file that the cache keeps beside it.

    Raises:
        QPatchBenchError: it is missing, or not a patch.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        there = [found.name for found in path.parent.glob("*.safetensors")]
        nearest = difflib.get_close_matches(path.name, there, n=NAMED, cutoff=0)
        hint = suggestion(path.name, nearest) if nearest else f" {path.parent} holds no .safetensors file."
        raise QPatchBenchError(f"{path}: expected a patch file, found {'a folder' if path.is_dir() else 'none'}.{hint}")
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise QPatchBenchError(f"{path}: expected a safetensors file, found something else: {error}") from None
    if "textures" not in arrays:
        raise QPatchBenchError(
            f"{path}: expected an array textures, uint8 (P, 3, h, w), found {', '.join(sorted(arrays)) or 'no array'}"
        )
    textures = arrays["textures"]
    count, _, height, width = textures.shape if textures.ndim == 4 else (0, 0, 0, 0)
    _check(path, "textures", textures, ("uint8",), (count, 3, height, width))
    if not textures.size:
        raise QPatchBenchError(f"{path}: textures: expected at least one pixel, found shape {textures.shape}")
    masks = arrays.get("masks", np.ones((count, 1, height, width), np.uint8))
    _check(path, "masks", masks, ("uint8", "bool", "float32"), (count, 1, height, width))
    if not np.isin(masks, (0, 1)).all():
        raise QPatchBenchError(f"{path}: masks: expected zeros and ones, found values up to {masks.max()}")
    places = None
    if "rows" in arrays and "columns" in arrays:
        for name in ("rows", "columns"):
            _check(path, name, arrays[name], ("int64",), (count,))
        places = arrays["rows"], arrays["columns"]
    goals = _goals(path, metadata)
    if goals and count % len(goals):
        raise QPatchBenchError(
            f"{path}: expected as many textures for each of {len(goals)} goals, found {count} in all"
        )
    return StoredPatch(path, textures, masks, goals, places)


def _check(path: Path, name: str, array: np.ndarray[Any, Any], types: tuple[str, ...], shape: tuple[int, ...]) -> None:
    wanted = "(P, 3, h, w)" if name == "textures" else str(shape)
    if str(array.dtype) not in types or array.shape != shape:
        raise QPatchBenchError(f"{path}: {name}: expected {types[0]} {wanted}, found {array.dtype} {array.shape}")


def _goals(path: Path, metadata: dict[str, str]) -> tuple[str, ...]:
    """The goals that a file's metadata or the facts beside it name; none for a patch made by hand."""
    import json

    kept = metadata.get("goals")
    try:
        if kept is None:
            kept = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["facts"]["goals"]
        found = json.loads(kept)
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def decode(path: Path, resize: int | None) -> np.ndarray[Any, Any]:
    """(H, W, 3) uint8.

    Raises:
        QPatchBenchError: it is missing, or not an image.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            picture: Image.Image = image.convert("RGB")
    except FileNotFoundError:
        raise QPatchBenchError(f"{path}: expected an image file, found none") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise QPatchBenchError(
            f"{path}: expected an image that Pillow can read, found something else: {error}"
        ) from None
    if resize is not None:
        picture = ImageOps.fit(picture, (resize, resize), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def place(
    stored: StoredPatch, texture: int, picture: Picture, given: tuple[int | None, int | None], scale: float
) -> tuple[int, int]:
    """Row and column of the patch before it is scaled.

    Raises:
        QPatchBenchError: the patch does not fit into the image, at all or there.
    """
    sides, room = stored.textures.shape[2:], picture.pixels.shape[:2]
    if any(side * scale > available for side, available in zip(sides, room, strict=True)):
        raise QPatchBenchError(
            f"{picture.path}: expected at least the {_size(sides, scale)} pixels of the patch (height x width), "
            f"found {_size(room)}; enlarge images with --resize, or shrink the patch with --scale"
        )
    found = []
    for axis, name in enumerate(("row", "column")):
        side, available, stored_places = sides[axis], room[axis], stored.places
        # Scaling keeps the centre, so the border moves by half of what the side loses; half a pixel may hang over.
        first = -math.floor((side - side * scale) / 2 + 0.5)
        last = math.floor(available - (side + side * scale) / 2 + 0.5)
        chosen, source = given[axis], f"--{name}"
        if chosen is None:
            chosen, source = (available - side) // 2, "the centre"
            if stored_places is not None:
                chosen, source = int(stored_places[axis][texture]), f"the stored {name}"
        if not first <= chosen <= last:
            raise QPatchBenchError(
                f"{picture.path}: {source}: expected {first}..{last} for a patch of {_size(sides, scale)} pixels on "
                f"an image of {_size(room)} (height x width), found {chosen}"
            )
        found.append(chosen)
    return found[0], found[1]


def _size(sides: tuple[int, ...], scale: float = 1.0) -> str:
    return f"{sides[0] * scale:g} x {sides[1] * scale:g}"


def pasted(
    stored: StoredPatch, texture: int, pixels: np.ndarray[Any, Any], row: int, column: int, angle: float, scale: float
) -> np.ndarray[Any, Any]:
    """The image (H, W, 3) uint8 under the patch, as an evaluation pastes it."""
    import numpy as np
    import torch

    from qpatchbench.ops.pasting import paste, to_float, to_uint8
    from qpatchbench.types import Placement

    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    chosen = slice(texture, texture + 1)
    placement = Placement(torch.tensor([row]), torch.tensor([column]), torch.tensor([angle]), torch.tensor([scale]))
    textures = to_float(torch.from_numpy(stored.textures[chosen]))
    masks = torch.from_numpy(stored.masks[chosen]).float()
    found: np.ndarray[Any, Any] = to_uint8(paste(to_float(image), textures, masks, placement))[0].numpy()
    return found.transpose(1, 2, 0)


def write(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """Write a PNG file, complete or not at all.

    Raises:
        StorageError: the disk refuses.
    """
    import io

    import numpy as np
    from PIL import Image

    from qpatchbench.suite.store import write_atomically

    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(data, format="PNG")
    write_atomically(path, data.getvalue())
