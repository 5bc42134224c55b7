"""The images and patches that a run keeps to be shown, held against its patch files, its outcomes and its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from qpatchbench.errors import ArtifactError
from qpatchbench.runs.example_images import FIRST, Examples, deciding_images, images_to_keep
from qpatchbench.runs.integrity import Unchecked
from qpatchbench.runs.layout import EXAMPLES, patch_file
from qpatchbench.runs.patch_file import read_patch
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import Run
from qpatchbench.suite.execution.export_examples import first_of_each_goal
from qpatchbench.types import ImageSet


def example_findings(run: Run, images: Mapping[str, ImageSet] | None) -> Iterator[str]:
    """What galleries and pages would show and the run does not hold.

    Args:
        run: an entry has no such images.
        images: the evaluation images as every model sees them, the first model's first; None where they are not at
            hand, which is told.
    """
    if not (run.directory / EXAMPLES).is_file():
        return
    try:
        kept = Examples(run.directory / EXAMPLES)
        yield from _patches(run.directory, run.cells, kept)
        yield from _choice(run, kept)
    except (ArtifactError, KeyError, TypeError) as error:
        yield f"{EXAMPLES}: {error}"
        return
    if images is None:
        yield Unchecked(f"the images of {EXAMPLES}")
        return
    first = next(iter(images.values()))
    numbers = {name: place for place, name in enumerate(first.ids)}
    places = [numbers.get(name, -1) for name in kept.ids]
    if kept.ids[:FIRST] != tuple(first.ids[:FIRST]) or kept.places.tolist() != places or -1 in places:
        yield f"{EXAMPLES}: expected the first images of the evaluation, their names and places, found others"
        return
    labels = np.array_equal(kept.labels, first.labels.cpu().numpy()[places])
    for model, own in images.items():
        if not (labels and np.array_equal(kept.pixels_of(model), own.pixels.cpu().numpy()[places])):
            yield f"{EXAMPLES}: expected the images of the evaluation as {model} sees them, and labels, found others"


def _patches(folder: Path, cells: Sequence[CellRecord], kept: Examples) -> Iterator[str]:
    patches = {cell.patch: cell for cell in cells if cell.status == "ok"}
    for key in sorted(kept.patches - patches.keys()):
        yield f"{EXAMPLES}: expected patches of the run, found {key}"
    for key, cell in sorted(patches.items()):
        stored = read_patch(folder / patch_file(key))
        wanted = (stored.textures, stored.masks)
        if cell.patch_kind == "per_image":
            chosen = [*first_of_each_goal(len(stored.textures), len(cell.counts))]
            wanted = (stored.textures[chosen], stored.masks[chosen])
        found = kept.patch(key)
        if found is None or not all(np.array_equal(*each) for each in zip(found, wanted, strict=True)):
            yield f"{EXAMPLES}: expected patch {key} as its file has it, found {'another' if found else 'none'}"


def _choice(run: Run, kept: Examples) -> Iterator[str]:
    """Images beside the first: those that decide, or none, as an earlier version kept."""
    cells = [cell for cell in run.cells if not cell.control and cell.status == "ok"]
    seed = min((cell.seed for cell in cells), default=0)
    first_seed = [cell for cell in cells if cell.seed == seed]
    if not first_seed or len(kept.ids) <= FIRST:
        return
    ids = run.stored(first_seed[0]).ids
    first = [ids.index(name) for name in kept.ids[:FIRST] if name in ids]
    found = (deciding_images(run.stored(cell).outcomes) for cell in first_seed)
    wanted = images_to_keep(found, first, len(ids))
    if sorted(kept.ids[FIRST:]) != [ids[place] for place in wanted]:
        yield f"{EXAMPLES}: expected the images that decide, as outcomes.parquet has them, found others"
