"""Images that a run keeps to be shown: the first of the evaluation, and those that decide attack success rates.

Those that decide are counted by the rate: right without a patch, and fooled or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from qpatchbench.errors import ArtifactError
from qpatchbench.runs.outcomes import Outcomes
from qpatchbench.runs.reading import MOST_BYTES_OF_ARRAYS, expect_modest, expect_present
from qpatchbench.statistics.intervals import Array

FIRST = 8  # evaluation images that a run keeps whatever they decide
EACH = 3  # images of a kind that are shown of a patch
MOST = 64  # images that a run keeps in all


class DecidingImages(NamedTuple):
    """Places of images in the order of their ids, ascending int64, under a cell's first goal.

    Attributes:
        fooled: right without the patch and wrong with it.
        not_fooled: right with it too; neither are those that are of the target class, or were left alone.
    """

    fooled: Array
    not_fooled: Array


def deciding_images(outcomes: Outcomes) -> DecidingImages:
    """All of a cell."""
    fooled, eligible = outcomes.fooled[0], outcomes.eligible[0]
    return DecidingImages(np.flatnonzero(fooled), np.flatnonzero(eligible & ~fooled))


def images_to_keep(found: Iterable[DecidingImages], first: Sequence[int], count: int) -> list[int]:
    """Images beside the `first` by which every cell can be shown with EACH images of a kind; at most MOST in all.

    Every cell gets its first image of a kind before any gets its second, and an image that is kept serves all cells.

    Args:
        found: of every cell.
        first: places of the images that are kept anyway.
        count: number of evaluation images.

    Returns:
        Their places, ascending.
    """
    kept = np.zeros(count, bool)
    kept[list(first)] = True
    kinds = [places[:MOST].copy() for cell in found for places in cell]  # no view, which would hold all of them
    for wanted in range(1, EACH + 1):
        for places in kinds:
            lacking = places[~kept[places]]
            if len(places) - len(lacking) < wanted and len(lacking) and kept.sum() < MOST:
                kept[lacking[0]] = True
    kept[list(first)] = False
    return [int(place) for place in np.flatnonzero(kept)]


class Examples:
    """Images and 8-bit patches to be shown.

    Attributes:
        ids: names of the E images; they occur in the outcomes.
        pixels: (E, 3, H, W) uint8, as the first model sees them.
        labels: (E,) class ids.
        places: (E,) int64, their places among the evaluation images.
    """

    def __init__(self, path: Path) -> None:
        expect_present(path)
        expect_modest(path, MOST_BYTES_OF_ARRAYS)
        try:
            with safe_open(path, framework="numpy") as file:
                self._arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no mapping)
                metadata = file.metadata() or {}
            self.ids: tuple[str, ...] = tuple(json.loads(metadata.get("ids", "[]")))
            self.pixels, self.labels = self._arrays["pixels"], self._arrays["labels"]
            # Runs of before kept the first images only.
            self.places = self._arrays.get("places", np.arange(len(self.ids)))
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactError(f"{path}: damaged examples: {error}") from None
        self._check(path)

    def _check(self, path: Path) -> None:
        shapes = {name: array.shape for name, array in self._arrays.items() if name.partition("/")[0] != "patch"}
        counts = {shape[:1] for shape in (*shapes.values(), self.places.shape)}
        pixels = {shape for name, shape in shapes.items() if name.partition("/")[0] == "pixels"}
        if len(pixels) > 1 or self.pixels.ndim != 4 or counts != {(len(self.ids),)} or self.places.dtype != np.int64:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ArtifactError(f"{path}: expected pixels, labels and places of {len(self.ids)} images, found {found}")

    def pixels_of(self, model: str) -> Array:
        """(E, 3, H, W) uint8 as a model sees them: models of one run may crop the same images in their own ways."""
        return self._arrays.get(f"pixels/{model}", self.pixels)

    @property
    def patches(self) -> frozenset[str]:
        """Keys of the patches."""
        return frozenset(name.split("/")[1] for name in self._arrays if name.startswith("patch/"))

    def patch(self, key: str) -> tuple[Array, Array] | None:
        """Textures (P, 3, h, w) and masks (P, 1, h, w), uint8; None for a patch that was never crafted."""
        textures = self._arrays.get(f"patch/{key}/textures")
        return None if textures is None else (textures, self._arrays[f"patch/{key}/masks"])
