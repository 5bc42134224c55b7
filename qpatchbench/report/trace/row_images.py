"""Images that decide a row of a leaderboard, of those that its run keeps: a few that are fooled, a few that are not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from qpatchbench.report.leaderboard.keys import row_key
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.runs.example_images import EACH, Examples
from qpatchbench.runs.layout import patch_file
from qpatchbench.runs.outcomes import target_of
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import PlacedAnswer, Run


class PatchedImage(NamedTuple):
    """An evaluation image under a patch.

    Attributes:
        name: its id.
        example: its number among the images that the run keeps.
        label: its class.
        answer: where the patch lies, and the predictions.
        texture: number of the texture in its patch's file.
    """

    name: str
    example: int
    label: int
    answer: PlacedAnswer
    texture: int


class RowImages(NamedTuple):
    """Images of a row, in the order of their ids; of the first seed that finished, under the first goal.

    Attributes:
        cell: of that seed; None where none finished.
        fooled: at most EACH that are right without the patch and wrong with it.
        not_fooled: at most EACH that are right with it too.
        missing: why there are none; empty where there are.
    """

    cell: CellRecord | None
    fooled: tuple[PatchedImage, ...] = ()
    not_fooled: tuple[PatchedImage, ...] = ()
    missing: str = ""


def images_of_rows(run: Run, examples: Examples, rows: Sequence[Row]) -> Iterator[RowImages]:
    """Those of every row.

    Raises:
        ArtifactError: outcomes of a cell are missing.
    """
    cells: dict[tuple[str | int, ...], list[CellRecord]] = defaultdict(list)
    for cell in run.cells:
        if not cell.control and cell.status == "ok":
            cells[row_key(cell)].append(cell)
    for row in rows:
        first = min(cells[row.key], key=lambda cell: cell.seed, default=None)
        yield RowImages(None, missing="no seed finished") if first is None else _images(run, examples, first)


def _images(run: Run, examples: Examples, cell: CellRecord) -> RowImages:
    file = patch_file(cell.patch)
    if "rotation" in cell.transformation:
        return RowImages(cell, missing="a patch that is turned after crafting is not drawn here")
    if examples.pixels.shape[-2:] != (cell.image_height, cell.image_width):
        return RowImages(cell, missing=f"examples.safetensors has none of the size that {cell.model} takes")
    if not (run.directory / file).is_file():
        return RowImages(cell, missing=f"{file} is not there")
    target = target_of(cell.counts[0].goal)
    answers = run.placed(cell, examples.ids)
    found: dict[bool, list[PatchedImage]] = {True: [], False: []}
    for number in sorted(range(len(examples.ids)), key=examples.ids.__getitem__):
        name, label = examples.ids[number], int(examples.labels[number])
        answer = answers.get(name)
        if answer is not None and answer.attacked and answer.clean_prediction == label != target:
            texture = int(examples.places[number]) if cell.patch_kind == "per_image" else 0
            found[answer.patched_prediction != label].append(PatchedImage(name, number, label, answer, texture))
    fooled, not_fooled = (tuple(found[kind][:EACH]) for kind in (True, False))
    none = f"the rate is counted from none of the {len(examples.ids)} images that the run keeps"
    return RowImages(cell, fooled, not_fooled, "" if fooled or not_fooled else none)
