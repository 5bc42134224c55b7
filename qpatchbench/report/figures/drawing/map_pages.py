"""Maps of a backbone at its bits, kept by runs and read for figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open

from qpatchbench.errors import ArtifactError
from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing.points import Family
from qpatchbench.report.figures.drawing.style import file_name
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.runs.parquet_tables import read_rows
from qpatchbench.runs.reading import MOST_BYTES_OF_ARRAYS, expect_modest
from qpatchbench.statistics.intervals import Array

MAPS = "maps.safetensors"
_OWNER = ("model", "defense", "quantization", "seed")


@dataclass(frozen=True)
class MappedBackbone:
    """One backbone of one run.

    Attributes:
        family: its model, defense and quantization, and the images.
        seed: of its training.
        facts: bits (most first), contents, layers, cam_layer, patch, images.
        class_names: of the dataset.
        directory: the run folder.
        number: its place in the file of maps.
    """

    family: Family
    seed: int
    facts: Mapping[str, Any]
    class_names: tuple[str, ...]
    directory: Path
    number: int

    @property
    def bits(self) -> tuple[str, ...]:
        """Most bits first."""
        return tuple(self.facts["bits"])

    @property
    def count(self) -> int:
        """How many images were kept."""
        return len(self.facts["images"])

    @property
    def title(self) -> str:
        """The backbone and its patch, above a page."""
        patch = f"; {self.patch}" if self.patch else ""
        return f"{self.family.title}, seed {self.seed}{patch}"

    @property
    def headings(self) -> list[str]:
        """The bit-widths, above columns or beside rows."""
        return [f"{bits} bits" for bits in self.bits]

    @property
    def patch(self) -> str:
        """The patch as a caption states it; "" without one."""
        found = self.facts["patch"]
        if found is None:
            return ""
        side, goal = found["side"], str(found["goal"])
        aim = f" towards {self.class_name(int(goal))}" if goal.isdigit() else ""
        return (
            f"{found['attack']} {side}x{side}{aim} crafted on "
            f"defense {found['source_defense']}, {found['source_bits']} bits"
        )

    def array(self, *name: str) -> Array:
        """An array by its name, parts joined by slashes.

        Raises:
            ArtifactError: it is not there.
        """
        path, key = self.directory / MAPS, "/".join((str(self.number), *name))
        try:
            with safe_open(path, framework="numpy") as file:
                return np.asarray(file.get_tensor(key))
        except SafetensorError as error:
            raise ArtifactError(f"{path}: expected an array {key}: {error}") from None

    def class_name(self, index: int) -> str:
        """Name of a class, or its number where the run has no names."""
        return self.class_names[index] if index < len(self.class_names) else str(index)

    def predicted(self, content: str, bits: str) -> tuple[str, ...]:
        """Names of the classes that the network at `bits` answers for the kept images."""
        return tuple(self.class_name(int(each)) for each in self.array("predictions", content, bits))

    def means(self, table: str) -> dict[tuple[str, str, str], Mapping[str, Any]]:
        """(content, bits, metric) -> row of `table`, "gradients" or "gradcam"; over all images measured."""
        path = self.directory / f"{table}.parquet"
        if not path.is_file():
            raise ArtifactError(f"{path}: expected the means beside {MAPS}, found no such file")
        own = (self.family.model, self.family.defense, self.family.quantization, self.seed)
        rows = [row for row in read_rows(path) if tuple(row[name] for name in _OWNER) == own]
        return {(row["images"], row["bits"], row["metric"]): row for row in rows}


def mapped_backbones(folders: Sequence[RunFolder]) -> Iterator[MappedBackbone]:
    """Every backbone whose maps a run kept; the first folder that has one wins.

    Raises:
        ArtifactError: a damaged file.
    """
    known: set[tuple[Any, ...]] = set()
    for folder in folders:
        names = tuple(str(name) for name in folder.manifest.get("class_names") or ())
        for number, facts in enumerate(_facts(Path(folder.name) / MAPS)):
            family = Family(folder.dataset, facts["model"], facts["defense"], "none", facts["quantization"])
            if (family, facts["seed"]) not in known:
                known.add((family, facts["seed"]))
                yield MappedBackbone(family, facts["seed"], facts, names, Path(folder.name), number)


def pages(
    name: str, folders: Sequence[RunFolder], images: int, draw: Callable[[MappedBackbone, range], Figure]
) -> Iterator[Drawing]:
    """Drawings of so many images each, backbone after backbone.

    Args:
        name: of the figure, with which the files' names begin.
        folders: runs to draw from.
        images: on one page.
        draw: backbone, indices of images -> a page.
    """
    for backbone in mapped_backbones(folders):
        for first in range(0, backbone.count, images):
            number = f"page{first // images + 1}" if backbone.count > images else ""
            stem = file_name(name, *backbone.family, f"seed{backbone.seed}", number)
            yield Drawing(stem, draw(backbone, range(first, min(first + images, backbone.count))))


def _facts(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        return []
    expect_modest(path, MOST_BYTES_OF_ARRAYS)
    try:
        with safe_open(path, framework="numpy") as file:
            found: list[Mapping[str, Any]] = json.loads((file.metadata() or {})["backbones"])
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: damaged maps: {type(error).__name__}: {error}") from None
    return found
