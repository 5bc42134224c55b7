"""Catalogue of all figures, of the papers and of a report: adding one is a new file here and a line below.

A figure is a function `(folders: Sequence[RunFolder]) -> Iterator[Drawing]`: one drawing per dataset, model, patch, ...
that one page should not mix, and none where the folders lack its data. `Path(folder.name)` is the folder itself, for
files that RunFolder does not read. Figures of the papers are drawn with the settings of print, those of a report
with the larger ones of a screen (`drawing.style`).
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qpatchbench.report.leaderboard.published import RunFolder


class Drawing(NamedTuple):
    """One page of a figure.

    Attributes:
        name: file name without ending; letters, digits, dot, dash and underscore only.
        figure: what is drawn, not yet written.
        title: what it shows, where the page around it says so.
    """

    name: str
    figure: Figure
    title: str = ""


Draw = Callable[["Sequence[RunFolder]"], Iterator[Drawing]]


@dataclass(frozen=True)
class FigureEntry:
    """One catalogue line.

    Attributes:
        target: "module:function" that draws it.
        summary: one sentence for `qpatchbench list figures`.
        reference: which figure of which paper it regenerates.
        needs: what a suite must state for a run to have its data.
        of_a_paper: or else one of the report of every run, without a counterpart in print.
    """

    target: str
    summary: str
    reference: str
    needs: str
    of_a_paper: bool = True

    def load(self) -> Draw:
        """The function; imports matplotlib."""
        module, _, attribute = self.target.partition(":")
        draw: Draw = getattr(importlib.import_module(module), attribute)
        return draw


REPORT = "the report of a run"
TRIQDEF = "Guesmi, Ouni, Shafique 2026, TriQDef: Disrupting semantic and gradient alignment, ICLR, arXiv 2508.12132"
QADTR = "Guesmi, Ouni, Shafique 2025, Breaking the limits of quantization-aware defenses, arXiv 2503.07058"

CATALOGUE: dict[str, FigureEntry] = {
    "pixel_attacks": FigureEntry(
        "qpatchbench.report.figures.pixel_attacks:pixel_attacks",
        "accuracy under pixel attacks against epsilon, one line per bit-width",
        f"{QADTR}, figure 1",
        "attacks: a pixel attack at several epsilons, each with a label, e.g. "
        "[{name: pgd, label: pgd_2, epsilon: 0.0079}, {name: pgd, label: pgd_4, epsilon: 0.0157}]; "
        "transfer: {sources: [same]}",
    ),
    "similarity": FigureEntry(
        "qpatchbench.report.figures.similarity:similarity",
        "edge IoU and HOG cosine over layers and pairs of bit-widths, clean and patched, beside chance",
        f"{TRIQDEF}, figure 2",
        "analysis: {similarity: true}",
    ),
    "features": FigureEntry(
        "qpatchbench.report.figures.features:features",
        "feature maps of the first convolutions, clean and patched, at every bit-width",
        f"{QADTR}, figure 3",
        "analysis: {maps: 4}",
    ),
    "gradients": FigureEntry(
        "qpatchbench.report.figures.gradients:gradients",
        "input gradients under a patch and under PGD at every bit-width, with cosine and MSE to that at most bits",
        f"{QADTR}, figure 4",
        "analysis: {maps: 4}",
    ),
    "gradcam": FigureEntry(
        "qpatchbench.report.figures.gradcam:gradcam",
        "Grad-CAM for the true class at every bit-width, clean and patched, with cosine, overlap and chance",
        f"{TRIQDEF}, figure 3",
        "analysis: {maps: 4}",
    ),
    "sweep": FigureEntry(
        "qpatchbench.report.figures.sweep:sweep",
        "attack success against patch size, shift and rotation, above the random control",
        f"{QADTR}, tables 20 and 21",
        "sweep: {sizes: [4, 8], shifts: [[2, 2]], rotations: [10]}",
    ),
    "costs": FigureEntry(
        "qpatchbench.report.figures.costs:costs",
        "step time and memory relative to the reference, against the bit-widths active",
        f"{TRIQDEF}, table 17",
        "analysis: {costs: qat, fewer_bits: true}",
    ),
    "asr_by_bits": FigureEntry(
        "qpatchbench.report.figures.asr_by_bits:asr_by_bits",
        "attack success against target bits with intervals, beside the random control and clean accuracy",
        REPORT,
        "attacks: [lavan]",
        of_a_paper=False,
    ),
    "transfer": FigureEntry(
        "qpatchbench.report.figures.transfer:transfer",
        "heatmaps of attack success: the bits on which a patch was crafted against those on which it is evaluated",
        REPORT,
        "attacks: [lavan]",
        of_a_paper=False,
    ),
    "patches": FigureEntry(
        "qpatchbench.report.figures.galleries:patches",
        "the patches of every attack, by source and target class",
        REPORT,
        "attacks: [lavan], in a run folder with its outcomes",
        of_a_paper=False,
    ),
    "pasted": FigureEntry(
        "qpatchbench.report.figures.galleries:pasted",
        "a few images under a patch, with the answers of every network",
        REPORT,
        "attacks: [lavan], in a run folder with its outcomes",
        of_a_paper=False,
    ),
}


def drawings(entry: FigureEntry, folders: Sequence[RunFolder]) -> list[Drawing]:
    """Draw a figure with our settings, whatever the user's matplotlibrc says; nothing where its data is missing."""
    from qpatchbench.report.figures.drawing.style import fixed_settings, publication_settings

    draw = entry.load()
    with publication_settings() if entry.of_a_paper else fixed_settings():
        return apart(draw(folders))


def apart(found: Iterable[Drawing]) -> list[Drawing]:
    """Number the names that safe characters made equal, so that no file overwrites another."""
    seen: Counter[str] = Counter()
    kept = []
    for drawing in found:
        key = drawing.name.lower()  # some file systems do not tell cases apart
        seen[key] += 1
        kept.append(drawing if seen[key] == 1 else drawing._replace(name=f"{drawing.name}_{seen[key]}"))
    return kept
