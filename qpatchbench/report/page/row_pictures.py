"""Images that rows of a page open to, patched as in the evaluation, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qpatchbench.report.answers.tables_that_open import OpenPictures
from qpatchbench.report.leaderboard.class_names import aim, class_name, class_names, shortened
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.report.page.image_sheet import ImageSheet, Symbol
from qpatchbench.report.trace.row_images import PatchedImage, RowImages, images_of_rows
from qpatchbench.runs.example_images import EACH
from qpatchbench.runs.run import Run

MOST_BYTES = 900_000  # of the pictures of all rows, in the page
_NAME = 24  # characters of a class name


class RowPictures(NamedTuple):
    """Pictures of all rows.

    Attributes:
        rows: what every row opens to.
        symbols: what the pictures share.
        sharp: whether their images have their own pixels.
    """

    rows: list[tuple[OpenPictures, ...]]
    symbols: list[Symbol]
    sharp: bool


def row_pictures(run: Run, rows: Sequence[Row], most: int = MOST_BYTES) -> RowPictures:
    """Pictures of every row, in at most `most` bytes: every row gets its first before any gets its second.

    Raises:
        ArtifactError: the folder lacks outcomes, or a patch file holds no patch.
    """
    examples, classes = run.examples(), class_names(run)
    found = list(images_of_rows(run, examples, rows))
    sheet = ImageSheet(run, examples, most)
    pictures: list[tuple[list[str], list[str]]] = [([], []) for _ in found]
    for turn in range(EACH):
        for each, drawn in zip(found, pictures, strict=True):
            for images, own in zip((each.fooled, each.not_fooled), drawn, strict=True):
                if each.cell is not None and turn < len(images):
                    own.append(sheet.picture(each.cell, images[turn], _told(images[turn], classes)))
    opened = [
        _opened(number, each, [[*filter(None, own)] for own in drawn], classes)
        for number, (each, drawn) in enumerate(zip(found, pictures, strict=True), 1)
    ]
    return RowPictures(opened, [*sheet.symbols.values()], sheet.sharp)


def _opened(
    number: int, row: RowImages, drawn: Sequence[list[str]], classes: Sequence[str]
) -> tuple[OpenPictures, ...]:
    explain = f"qpatchbench explain RUN {number}"
    missing = row.missing or ("" if any(drawn) else "the page would be too large")
    if row.cell is None or missing:
        return (OpenPictures("images", f"none here, as {missing}; {explain}"),)
    count = row.cell.counts[0]
    return (
        OpenPictures("images", f"seed {row.cell.seed}, {aim(count.goal, classes)}; {explain}"),
        OpenPictures("fooled", f"{len(drawn[0])} of {count.n_fooled}", tuple(drawn[0])),
        OpenPictures("not fooled", f"{len(drawn[1])} of {count.n_eligible - count.n_fooled}", tuple(drawn[1])),
    )


def _told(image: PatchedImage, classes: Sequence[str]) -> str:
    label, before, after = (
        shortened(class_name(number, classes), _NAME)
        for number in (image.label, image.answer.clean_prediction, image.answer.patched_prediction)
    )
    return f"label {label}: {before} → {after}, {image.name}"
