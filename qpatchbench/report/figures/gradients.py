"""Input gradients under a patch and under PGD at every bit-width, with cosine and MSE to the network's of most bits.

Regenerates figure 4 of QADT-R (Guesmi, Ouni, Shafique 2025, arXiv 2503.07058). Gradients of different images and
bit-widths differ in size by orders of magnitude, so that each panel is shown relative to its own largest pixel, and the
mean squared error above it tells the size. The cosine of independent gradients is 0 on average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qpatchbench.report.figures import Drawing
from qpatchbench.report.figures.drawing.map_pages import MappedBackbone, pages
from qpatchbench.report.figures.drawing.picture_grid import (
    Column,
    Panel,
    PictureGroup,
    as_picture,
    difference_box,
    page,
    scientific,
    short,
)
from qpatchbench.report.leaderboard.class_names import shortened
from qpatchbench.report.leaderboard.published import RunFolder

IMAGES = 4  # on one page
HEADINGS = {"clean": "clean", "patched": "under the patch", "perturbed": "under PGD (8/255, 20 steps)"}


def gradients(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per backbone and IMAGES images."""
    return pages("gradients", folders, IMAGES, _page)


def _page(backbone: MappedBackbone, images: range) -> Figure:
    means, most_bits = backbone.means("gradients"), backbone.bits[0]
    contents = [("patched" if "patched" in backbone.facts["contents"] else "clean"), "perturbed"]
    groups = [_group(backbone, content, images, means) for content in contents]
    caption = f"above each panel: cosine and MSE to the gradient at {most_bits} bits; the cosine of chance is 0"
    return page(backbone.title, backbone.headings, groups, caption)


def _group(
    backbone: MappedBackbone,
    content: str,
    images: range,
    means: Mapping[tuple[str, str, str], Mapping[str, Any]],
) -> PictureGroup:
    pixels, clean = backbone.array("pixels", content), backbone.array("pixels", "clean")
    labels = backbone.array("labels")
    shown = {bits: backbone.array("gradients", content, bits).astype(np.float64) for bits in backbone.bits}
    cosines, errors = (
        {bits: backbone.array("gradients", metric, content, bits) for bits in backbone.bits}
        for metric in ("cosine", "mse")
    )
    columns = []
    for index in images:
        panels = []
        for bits in backbone.bits:
            size = np.sqrt((shown[bits][index] ** 2).sum(axis=0))
            title = f"{short(float(cosines[bits][index]))}   {scientific(float(errors[bits][index]))}"
            panels.append(Panel(size / max(float(size.max()), 1e-12), title))
        box = difference_box(clean[index], pixels[index]) if content == "patched" else None
        name = shortened(backbone.class_name(int(labels[index])), 12)
        columns.append(Column(name, as_picture(pixels[index]), panels, box))
    notes = [_note(means, content, bits, reference=bits == backbone.bits[0]) for bits in backbone.bits]
    label = "gradient, Euclidean norm over the colours, relative to the panel's largest"
    heading = f"{HEADINGS[content]}, made at {backbone.bits[0]} bits" if content == "perturbed" else HEADINGS[content]
    return PictureGroup(heading, columns, (0.0, 1.0), label, notes)


def _note(means: Mapping[tuple[str, str, str], Mapping[str, Any]], content: str, bits: str, *, reference: bool) -> str:
    if reference:
        return "reference"
    cosine, error = means[content, bits, "cosine"], means[content, bits, "mse"]
    return f"mean of {cosine['n_images']}\ncos {short(cosine['value'])}\nMSE {scientific(error['value'])}"
