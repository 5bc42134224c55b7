"""Galleries: the patches themselves, and what they do to a few evaluation images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing.mosaic import Tile, mosaic
from qpatchbench.report.figures.drawing.style import file_name
from qpatchbench.report.leaderboard.class_names import aim, class_name, class_names, goal_name, shortened
from qpatchbench.report.leaderboard.keys import FLOAT_BITS, bits_order
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import behind
from qpatchbench.runs.example_images import Examples
from qpatchbench.runs.layout import CELLS, OUTCOMES
from qpatchbench.runs.layout import EXAMPLES as EXAMPLES_FILE
from qpatchbench.runs.outcomes import target_of
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import Run
from qpatchbench.statistics.intervals import Array

SOURCES, GOALS, TARGETS, EXAMPLES = 10, 10, 6, 8  # at most so many in one picture
BACKGROUND = 217  # light grey where a mask is open
_NAME = 15  # characters of a class name under a tile


def patches(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per attack and size."""
    for run in _runs(folders):
        examples, classes = run.examples(), class_names(run)
        yield from filter(None, (patch_gallery(cells, examples, classes) for cells in patch_groups(run)))


def pasted(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per backbone, attack and size."""
    for run in _runs(folders):
        examples, classes = run.examples(), class_names(run)
        yield from filter(None, (pasted_gallery(cells, run, examples, classes) for cells in pasted_groups(run)))


def _runs(folders: Sequence[RunFolder]) -> Iterator[Run]:
    """The folders that hold outcomes and example images; what was published of a run may lack them."""
    for directory in (Path(folder.name) for folder in folders):
        if all((directory / name).is_file() for name in (CELLS, OUTCOMES, EXAMPLES_FILE)):
            yield Run(directory)


def patch_groups(run: Run) -> Iterator[list[CellRecord]]:
    """Cells of one attack and size, one per source network, of the first seed."""
    groups: dict[tuple[object, ...], dict[tuple[object, ...], CellRecord]] = defaultdict(dict)
    for cell in sorted(run.cells, key=lambda cell: (cell.seed, cell.cell)):
        made = cell.source_model or cell.lineage == "external"
        if cell.status == "ok" and not cell.control and made and not cell.transformation:
            size = (cell.patch_height, cell.patch_width)
            groups[(cell.dataset, cell.attack, *size)].setdefault(_source_order(cell), cell)
    for key in sorted(groups, key=str):
        yield [groups[key][source] for source in sorted(groups[key])]


def patch_gallery(cells: Sequence[CellRecord], examples: Examples, classes: Sequence[str]) -> Drawing | None:
    """One row per source, one column per goal; per-image patches show the first goal's, one column per image."""
    first = cells[0]
    per_image = first.patch_kind == "per_image"
    rows: list[tuple[str, list[Tile | None]]] = []
    for cell in cells[:SOURCES]:
        stored = examples.patch(cell.patch)
        if stored is not None:
            textures, masks = stored
            shown = EXAMPLES if per_image else GOALS
            tiles = [Tile(_seen(texture, mask)) for texture, mask in zip(textures, masks, strict=True)]
            rows.append((_source_label(cell), list(tiles[:shown])))
    if not rows:
        return None
    goals = [count.goal for count in first.counts]
    heads = [shortened(goal_name(goal, classes), 12) for goal in goals[:GOALS]]
    if per_image:
        heads = [f"image {number + 1}" for number in range(len(rows[0][1]))]
    size = f"{first.patch_height}x{first.patch_width}"
    title = f"patches of {first.attack} {size}, {first.dataset}: by source" + (
        f", {aim(goals[0], classes)}" if per_image else " and target class"
    )
    left_out = [
        f"{name}: the first {most} of {total}"
        for name, most, total in (("sources", SOURCES, len(cells)), ("target classes", GOALS, len(goals)))
        if total > most and not (per_image and name != "sources")
    ]
    figure = mosaic(title, rows, heads, "; ".join(left_out), inches=0.8)
    return Drawing(file_name("patches", first.dataset, first.attack, size), figure, title)


def pasted_groups(run: Run) -> Iterator[list[CellRecord]]:
    """Cells of one patch on the networks of its own model and defense; of every attack the patch made at most bits."""
    by_patch: dict[tuple[str, str], list[CellRecord]] = defaultdict(list)
    for cell in run.cells:
        same = (cell.source_model, cell.source_defense) == (cell.model, cell.defense)
        if cell.status == "ok" and not cell.control and same and not cell.transformation:
            by_patch[(cell.patch, cell.preprocessor)].append(cell)
    chosen: dict[tuple[str | int, ...], list[CellRecord]] = {}
    for cells in sorted(by_patch.values(), key=lambda cells: (cells[0].seed, *_source_order(cells[0]))):
        first = cells[0]
        names = (first.dataset, first.model, first.defense, first.preprocessor, first.attack)
        key: tuple[str | int, ...] = (*names, first.patch_height, first.patch_width)
        # The float patch meets every mode; without one, the patch that meets most networks says most.
        if key not in chosen or (chosen[key][0].source_bits != FLOAT_BITS and len(cells) > len(chosen[key])):
            chosen[key] = cells
    for key in sorted(chosen, key=str):
        yield sorted(chosen[key], key=lambda cell: (bits_order(cell.target_bits), cell.quantization))


def pasted_gallery(cells: Sequence[CellRecord], run: Run, examples: Examples, classes: Sequence[str]) -> Drawing | None:
    """Example images without a patch, then one row per target network under the first goal's patch."""
    first = cells[0]
    stored = examples.patch(first.patch)
    if stored is None or examples.pixels.shape[-2:] != (first.image_height, first.image_width):
        return None  # these images belong to a model with another input size
    ids, labels = examples.ids[:EXAMPLES], [int(label) for label in examples.labels[:EXAMPLES]]
    own = examples.pixels_of(first.model)[:EXAMPLES]
    clean = [np.moveaxis(pixels, 0, -1) for pixels in own]
    rows: list[tuple[str, list[Tile | None]]] = [
        ("no patch", [Tile(pixels, _shown(label, classes)) for pixels, label in zip(clean, labels, strict=True)])
    ]
    target = target_of(first.counts[0].goal)
    for cell in cells[:TARGETS]:
        placed = run.placed(cell, ids)
        tiles: list[Tile | None] = []
        for number, name in enumerate(ids):
            if name not in placed:
                tiles.append(None)
                continue
            row, column, before, after, _ = placed[name]
            texture, mask = (array[number if first.patch_kind == "per_image" else 0] for array in stored)
            image = composite(own[number], texture, mask, row, column)
            tiles.append(_judged(np.moveaxis(image, 0, -1), labels[number], before, after, target, classes))
        rows.append((f"{cell.quantization}@{cell.target_bits}", tiles))
    size = f"{first.patch_height}x{first.patch_width}"
    goal = aim(first.counts[0].goal, classes)
    title = (
        f"{first.attack} {size}, {goal}, crafted on {_source_label(first, ' ')}\n"
        f"evaluated on {first.model} {first.defense}{behind(first.preprocessor)}, {first.dataset}: label → prediction"
    )
    note = (
        "✗ solid frame: fooled   ✓ dotted frame: not fooled   ○ thin frame: wrong without a patch, or the target class"
    )
    if len(cells) > TARGETS:
        note += f"\nthe first {TARGETS} of {len(cells)} target networks"
    figure = mosaic(title, rows, [f"image {number + 1}" for number in range(len(ids))], note)
    name = file_name("pasted", first.dataset, first.model, first.defense, first.preprocessor, first.attack, size)
    return Drawing(name, figure, title.replace("\n", ", "))


def composite(pixels: Array, texture: Array, mask: Array, row: int, column: int) -> Array:
    """Paste a texture (3, h, w) where its mask (1, h, w) is 1, top-left at (row, column); all uint8, (3, H, W)."""
    image = pixels.copy()
    height, width = texture.shape[-2:]
    window = image[:, row : row + height, column : column + width]
    window[:] = np.where(mask > 0, texture, window)
    return image


def _judged(pixels: Array, label: int, before: int, after: int, target: int, classes: Sequence[str]) -> Tile:
    if before != label or label == target:
        mark, colour, line = "○", "#767676", ""
    elif after != label:
        mark, colour, line = "✗", "#b3400e", "-"
    else:
        mark, colour, line = "✓", "#0072b2", ":"
    text = f"{mark} {_shown(label, classes)}\n→ {_shown(after, classes)}"
    return Tile(pixels, text, colour, line)


def _seen(texture: Array, mask: Array) -> Array:
    return np.moveaxis(np.where(mask > 0, texture, np.uint8(BACKGROUND)), 0, -1)


def _source_label(cell: CellRecord, between: str = "\n") -> str:
    if not cell.source_model:
        return "made elsewhere"
    backbone = f"{cell.source_model} {cell.source_defense}{behind(cell.source_preprocessor)}"
    return f"{backbone}{between}{cell.source_quantization}@{cell.source_bits}"


def _source_order(cell: CellRecord) -> tuple[Any, ...]:
    names = cell.source_model, cell.source_defense, cell.source_preprocessor
    return *names, bits_order(cell.source_bits), cell.source_quantization, cell.seen


def _shown(label: int, classes: Sequence[str]) -> str:
    return shortened(class_name(label, classes), _NAME)
