"""Pictures of a run: transfer heatmaps, ASR by bit-width, galleries of patches and of patched images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import pandas as pd

from qpatchbench.report.figures.asr_by_bits import curve_page, pages
from qpatchbench.report.figures.drawing import Plot
from qpatchbench.report.figures.galleries import pasted, pasted_groups, patch_groups, patches
from qpatchbench.report.figures.transfer import heatmap, panels
from qpatchbench.runs.run import Run

# At most so many pictures of a kind: a report that nobody can look through says nothing.
MOST = {"transfer": 16, "bits": 6, "patches": 6, "pasted": 8}

_Wanted = TypeVar("_Wanted")


@dataclass(frozen=True)
class Plots:
    """Pictures, in the order of the report, and what the bounds left out, in words."""

    plots: tuple[Plot, ...]
    left_out: tuple[str, ...]


def draw(run: Run, frame: pd.DataFrame) -> Plots:
    """Every kind of picture that the run has data for, within MOST."""
    frame = frame[frame["transformation"] == ""]  # a moved patch is a row of the tables only
    examples, classes = run.examples(), [str(name) for name in run.manifest.get("class_names", [])]
    left_out: list[str] = []

    def drawn(kind: str, wanted: Iterable[_Wanted], how: Callable[[_Wanted], Plot | None]) -> list[Plot]:
        listed = [*wanted]
        if len(listed) > MOST[kind]:
            left_out.append(f"{kind}: the first {MOST[kind]} of {len(listed)} pictures, in the leaderboard's order")
        return [plot for each in listed[: MOST[kind]] if (plot := how(each)) is not None]

    found = [
        *drawn("bits", pages(frame), lambda page: curve_page(*page)),
        *drawn("transfer", panels(frame), lambda panel: heatmap(*panel)),
        *drawn("patches", patch_groups(run), lambda cells: patches(cells, examples, classes)),
        *drawn("pasted", pasted_groups(run), lambda cells: pasted(cells, run, examples, classes)),
    ]
    return Plots(tuple(_apart(found)), tuple(left_out))


def _apart(plots: Iterable[Plot]) -> Iterator[Plot]:
    """Number the names that safe characters made equal, so that no picture overwrites another."""
    seen: Counter[str] = Counter()
    for plot in plots:
        key = plot.name.lower()  # some file systems do not tell cases apart
        seen[key] += 1
        yield plot if seen[key] == 1 else replace(plot, name=f"{plot.name}_{seen[key]}")
