"""The pictures of a report, within bounds: ASR by bits, transfer heatmaps, galleries of patches and patched images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from qpatchbench.report.figures import Drawing, apart
from qpatchbench.report.figures.asr_by_bits import curve_page, curve_pages
from qpatchbench.report.figures.drawing.style import fixed_settings, png
from qpatchbench.report.figures.galleries import pasted_gallery, pasted_groups, patch_gallery, patch_groups
from qpatchbench.report.figures.transfer import heatmap, heatmaps
from qpatchbench.report.leaderboard.class_names import class_names
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.runs.run import Run

# At most so many pictures of a kind: a report that nobody can look through says nothing.
MOST = {"transfer": 16, "bits": 6, "patches": 6, "pasted": 8}

_Wanted = TypeVar("_Wanted")


class Picture(NamedTuple):
    """A drawing as the bytes of a PNG."""

    name: str
    title: str
    png: bytes


class Pictures(NamedTuple):
    """Pictures, in the order of the report, and what the bounds left out, in words."""

    pictures: tuple[Picture, ...]
    left_out: tuple[str, ...]


def draw(run: Run, rows: Sequence[Row]) -> Pictures:
    """Every kind of picture that the run has data for, within MOST."""
    rows = [row for row in rows if not row.transformation]  # a moved patch is a row of the tables only
    examples, classes = run.examples(), class_names(run)
    left_out: list[str] = []

    def drawn(kind: str, wanted: Iterable[_Wanted], how: Callable[[_Wanted], Drawing | None]) -> list[Drawing]:
        listed = [*wanted]
        if len(listed) > MOST[kind]:
            left_out.append(f"{kind}: the first {MOST[kind]} of {len(listed)} pictures, in the leaderboard's order")
        return [drawing for each in listed[: MOST[kind]] if (drawing := how(each)) is not None]

    with fixed_settings():
        found = [
            *drawn("bits", curve_pages(rows), curve_page),
            *drawn("transfer", heatmaps(rows), heatmap),
            *drawn("patches", patch_groups(run), lambda cells: patch_gallery(cells, examples, classes)),
            *drawn("pasted", pasted_groups(run), lambda cells: pasted_gallery(cells, run, examples, classes)),
        ]
        return Pictures(
            tuple(Picture(each.name, each.title, png(each.figure)) for each in apart(found)), tuple(left_out)
        )
