"""A patch that was made elsewhere: its pixels, where it covers, and the classes that its file names.

Pictures (PNG, whose transparency is the mask), arrays (npy, npz, safetensors; those of the Adversarial Robustness
Toolbox among them) and the archive of ImageNet-Patch. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qpatchbench.errors import PatchFileError
from qpatchbench.runs.reading import MEGABYTE, read_whole
from qpatchbench.statistics.intervals import Array

MOST_BYTES = 200 * MEGABYTE  # of a file, and of what is packed in it
LARGEST_SIDE = 4096  # pixels
CUT = 0.5  # a mask covers where it is at least so much of its largest value
RGB = 3


@dataclass(frozen=True)
class ForeignPatch:
    """What a patch file from elsewhere holds.

    Attributes:
        textures: (P, 3, h, w) float32 in [0, 1].
        masks: (P, 1, h, w) uint8 of zeros and ones.
        targets: a class id for each of the P patches; empty where the file names none.
    """

    textures: Array
    masks: Array
    targets: tuple[int, ...] = ()

    @property
    def side(self) -> int:
        """The longer side, pixels."""
        return int(max(self.textures.shape[2:]))

    def squared(self) -> ForeignPatch:
        """The same patches in the middle of squares, which they do not cover beyond their own rows and columns."""
        height, width = self.textures.shape[2:]
        gaps = [(self.side - height) // 2, (self.side - width) // 2]
        ends = [(gap, self.side - own - gap) for gap, own in zip(gaps, (height, width), strict=True)]
        around = ((0, 0), (0, 0), *ends)
        return ForeignPatch(np.pad(self.textures, around), np.pad(self.masks, around), self.targets)


def read_foreign(path: Path, mask: Path | None = None, white: float | None = None) -> ForeignPatch:
    """Read the patches of a file; nothing in it is executed, and no more memory taken than its kind can need.

    Args:
        path: .png, .npy, .npz, .safetensors, or the .gz of ImageNet-Patch.
        mask: a second file, .png or .npy, of where the patch covers; None: what the file itself says, else all of it.
        white: value of the brightest pixel in arrays of numbers with a fraction; None: 1, and 255 for whole numbers.

    Raises:
        PatchFileError: it is missing, or no patch; says what was expected and what was found.
    """
    readers = _readers()
    data = _bytes_of(path, tuple(readers))
    try:
        parts = readers[path.suffix.lower()](data)
        textures = textures_of(parts["patch"], white)
        given = parts.get("mask") if mask is None else _mask_file(mask)
        masks = masks_of(given, textures.shape)
        targets = targets_of(parts.get("targets"), len(textures))
    except (ValueError, OSError) as error:
        raise PatchFileError(f"{path}: {error}") from None
    return ForeignPatch(textures, masks, targets)


def expect_there(path: Path) -> None:
    """Check that there is such a file.

    Raises:
        PatchFileError: there is none; names the patches that lie there.
    """
    if not path.is_file():
        there = sorted(each.name for each in path.parent.glob("*") if each.suffix.lower() in _readers())
        hint = f" Patches there: {', '.join(there[:10])}." if there else ""
        raise PatchFileError(f"expected a patch file, found none at {path.absolute()}.{hint}")


def textures_of(values: Array, white: float | None) -> Array:
    """Pixels as (P, 3, h, w) float32 in [0, 1], from one patch or several, colours first or last.

    Raises:
        ValueError: they are none.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "uif":
        raise ValueError(f"expected numbers, found {values.dtype}")
    if values.ndim not in (3, 4) or 0 in values.shape:
        raise ValueError(f"expected a patch (3, h, w) or (h, w, 3), or several, found the shape {values.shape}")
    if values.shape[-3] != RGB:
        if values.shape[-1] != RGB:
            raise ValueError(f"expected 3 colours, first or last, found the shape {values.shape}")
        values = np.moveaxis(values, -1, -3)
    several = values if values.ndim == 4 else values[None]
    if max(several.shape[2:]) > LARGEST_SIDE:
        raise ValueError(f"expected at most {LARGEST_SIDE} pixels a side, found {several.shape[2]}x{several.shape[3]}")
    top = white or (1.0 if values.dtype.kind == "f" else 255.0)
    if not np.isfinite(several).all():
        raise ValueError("expected finite pixels, found NaN or infinity")
    low, high = float(several.min()), float(several.max())
    if low < 0 or high > top:
        hint = "; say white: 255 if that is its brightest value" if top == 1 and low >= 0 and high <= 255 else ""
        raise ValueError(f"expected pixels in 0..{top:g}, found {low:g}..{high:g}{hint}")
    return np.ascontiguousarray(several.astype(np.float32) / np.float32(top))


def masks_of(values: Array | None, shape: tuple[int, ...]) -> Array:
    """Where patches cover as (P, 1, h, w) uint8, cut at half of the largest value; everywhere without a mask.

    Args:
        values: (h, w), or as the patches are with one or three colours, first or last; booleans or numbers.
        shape: of the textures.

    Raises:
        ValueError: they are of another size, negative, or cover nothing of a patch.
    """
    count, _, height, width = shape
    if values is None:
        return np.ones((count, 1, height, width), np.uint8)
    found = np.asarray(values)
    if found.dtype.kind not in "buif" or not np.isfinite(found).all() or found.min(initial=0) < 0:
        raise ValueError("expected a mask of numbers from 0, or of truth values, found another")
    if found.ndim >= 3 and found.shape[-2:] != (height, width):
        found = np.moveaxis(found, -1, -3)
    if found.ndim == 2:
        found = found[None]
    if found.ndim == 3:
        found = found[None]
    fits = found.ndim == 4 and found.shape[0] in (1, count) and found.shape[1] in (1, RGB)
    if not fits or found.shape[2:] != (height, width):
        raise ValueError(f"expected a mask of {height}x{width} pixels as the patch, found the shape {values.shape}")
    largest = float(found.max(initial=0))
    covers = (found >= CUT * largest).all(axis=1, keepdims=True) & (largest > 0)
    covers = np.broadcast_to(covers, (count, 1, height, width))
    if not covers.any(axis=(1, 2, 3)).all():
        raise ValueError("expected a mask that covers something, found one of zeros")
    return np.ascontiguousarray(covers.astype(np.uint8))


def targets_of(values: Array | None, count: int) -> tuple[int, ...]:
    """A class id for each patch; none where none are named.

    Raises:
        ValueError: they are no class ids, or not one for each.
    """
    if values is None:
        return ()
    found = np.atleast_1d(np.asarray(values))
    if found.dtype.kind not in "uif" or found.ndim != 1 or not (np.isfinite(found) & (found == np.floor(found))).all():
        raise ValueError(f"expected class ids as targets, found {found.dtype} of the shape {found.shape}")
    if len(found) != count or found.min(initial=0) < 0 or len(set(found.tolist())) < count:
        raise ValueError(f"expected another class id for each of {count} patches, found {found[:10].tolist()}")
    return tuple(map(int, found.tolist()))


def _mask_file(path: Path) -> Array:
    from qpatchbench.runs.foreign.patch_arrays import array_file
    from qpatchbench.runs.foreign.patch_picture import brightness

    readers: Mapping[str, Callable[[bytes], Any]] = {".npy": array_file, ".png": brightness}
    data = _bytes_of(path, tuple(readers))
    try:
        found: Array = readers[path.suffix.lower()](data)
    except (ValueError, OSError) as error:
        raise PatchFileError(f"{path}: {error}") from None
    return found


def _readers() -> Mapping[str, Callable[[bytes], Mapping[str, Array]]]:
    from qpatchbench.runs.foreign.patch_archive import archive
    from qpatchbench.runs.foreign.patch_arrays import array_file, array_files, tensor_file
    from qpatchbench.runs.foreign.patch_picture import picture

    return {
        ".gz": archive,
        ".npy": lambda data: {"patch": array_file(data)},
        ".npz": array_files,
        ".png": picture,
        ".safetensors": tensor_file,
    }


def _bytes_of(path: Path, kinds: tuple[str, ...]) -> bytes:
    """What a file holds.

    Raises:
        PatchFileError: it is missing, of another kind or too large.
    """
    expect_there(path)
    if path.suffix.lower() not in kinds:
        raise PatchFileError(
            f"{path}: expected a name that ends in {', '.join(kinds)}, found {path.suffix or 'no ending'}; write "
            "tensors of other files with numpy.savez(file, patch=..., mask=...)"
        )
    try:
        return read_whole(path, MOST_BYTES)
    except OSError as error:
        raise PatchFileError(f"{path}: {error}") from None
