"""The images and patches that a run keeps for its galleries, held against its patch files and its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from qpatchbench.errors import ArtifactError
from qpatchbench.runs.integrity import Unchecked
from qpatchbench.runs.layout import EXAMPLES, patch_file
from qpatchbench.runs.patch_file import read_patch
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import Examples
from qpatchbench.suite.execution.export import SHOWN, first_of_each_goal
from qpatchbench.types import ImageSet


def example_findings(folder: Path, cells: Sequence[CellRecord], images: ImageSet | None) -> Iterator[str]:
    """What the galleries would show and the run does not hold.

    Args:
        folder: of the run; an entry has no galleries.
        cells: of the run.
        images: the evaluation images of its first model; None where they are not at hand, which is told.
    """
    if not (folder / EXAMPLES).is_file():
        return
    try:
        kept = Examples(folder / EXAMPLES)
        patches = {cell.patch: cell for cell in cells if cell.status == "ok"}
        for key in sorted(kept.patches - patches.keys()):
            yield f"{EXAMPLES}: expected patches of the run, found {key}"
        for key, cell in sorted(patches.items()):
            stored = read_patch(folder / patch_file(key))
            wanted = (stored.textures, stored.masks)
            if cell.patch_kind == "per_image":
                chosen = [*first_of_each_goal(len(stored.textures), len(cell.counts), len(kept.ids))]
                wanted = (stored.textures[chosen], stored.masks[chosen])
            found = kept.patch(key)
            if found is None or not all(np.array_equal(*each) for each in zip(found, wanted, strict=True)):
                yield f"{EXAMPLES}: expected patch {key} as its file has it, found {'another' if found else 'none'}"
    except (ArtifactError, KeyError, TypeError) as error:
        yield f"{EXAMPLES}: {error}"
        return
    if images is None:
        yield Unchecked(f"the images of {EXAMPLES}")
        return
    shown = images[:SHOWN]
    same = kept.ids == tuple(shown.ids) and np.array_equal(kept.pixels, shown.pixels.cpu().numpy())
    if not (same and np.array_equal(kept.labels, shown.labels.cpu().numpy())):
        yield f"{EXAMPLES}: expected the first images of the evaluation, their names and labels, found others"
