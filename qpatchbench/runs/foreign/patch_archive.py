"""The archive of ImageNet-Patch (Pintor et al. 2023, arXiv 2203.04412): ten patches with targets, read as data.

A gzipped pickle of (patches, targets, facts): each patch is a square in the middle of a black image of the size of its
network's input; `patch_size` in the facts is the side of the square.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Mapping

import numpy as np

from qpatchbench.runs.foreign.pickle_data import data_of
from qpatchbench.runs.reading import MEGABYTE
from qpatchbench.statistics.intervals import Array

MOST_BYTES = 200 * MEGABYTE  # unpacked
SIDE = "patch_size"


def archive(data: bytes) -> Mapping[str, Array]:
    """`patch` (P, 3, side, side), cut out of the middle, and `targets` (P,).

    Raises:
        ValueError: it is no such archive, or its pickle holds more than tensors and plain data.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"expected the gzipped archive of ImageNet-Patch, found a file that is none: {error}"
        ) from None
    if len(unpacked) > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES:,} bytes unpacked, found more")
    content = data_of(unpacked)
    if not isinstance(content, tuple) or len(content) not in (2, 3):
        raise ValueError(f"expected patches, targets and facts, found {type(content).__name__}")
    patches, targets, *rest = content
    if not isinstance(patches, np.ndarray) or patches.ndim != 4 or not isinstance(targets, np.ndarray):
        raise ValueError("expected patches (P, 3, H, W) and their targets, found something else")
    side = rest[0].get(SIDE) if rest and isinstance(rest[0], dict) else None
    return {"patch": _middle(patches, side), "targets": targets}


def _middle(patches: Array, side: object) -> Array:
    """The square in the middle; all of the image where the facts name no side."""
    if side is None:
        return patches
    height, width = patches.shape[2:]
    if type(side) is not int or not 0 < side <= min(height, width):
        found = side if type(side) is int else type(side).__name__
        raise ValueError(f"expected as {SIDE} a side within {height}x{width} pixels, found {found}")
    top, left = (height - side) // 2, (width - side) // 2
    return patches[:, :, top : top + side, left : left + side]
