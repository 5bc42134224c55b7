"""Grad-CAM for the true class at every bit-width, clean and patched.

Regenerates figure 3 of TriQDef (Guesmi, Ouni, Shafique 2026, ICLR, arXiv 2508.12132), and
adds what that figure lacks: how alike the maps are, and how alike the maps of different images are, which is chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
    short,
)
from qpatchbench.report.leaderboard.class_names import shortened
from qpatchbench.report.leaderboard.published import RunFolder

IMAGES = 4  # on one page


def gradcam(folders: Sequence[RunFolder]) -> Iterator[Drawing]:
    """One drawing per backbone and IMAGES images."""
    return pages("gradcam", folders, IMAGES, _page)


def _page(backbone: MappedBackbone, images: range) -> Figure:
    means, most_bits = backbone.means("gradcam"), backbone.bits[0]
    contents = [content for content in ("clean", "patched") if content in backbone.facts["contents"]]
    groups = [_group(backbone, content, images, means) for content in contents]
    layer = backbone.facts["cam_layer"].removeprefix("backbone.")
    caption = (
        f"Grad-CAM of {layer} for the true class; above each map: the answer, cosine and IoU of the top fifth with the "
        f"map at {most_bits} bits"
    )
    return page(backbone.title, backbone.headings, groups, caption)


def _group(
    backbone: MappedBackbone,
    content: str,
    images: range,
    means: Mapping[tuple[str, str, str], Mapping[str, Any]],
) -> PictureGroup:
    pixels, clean = backbone.array("pixels", content), backbone.array("pixels", "clean")
    labels = backbone.array("labels")
    cams = {bits: backbone.array("cams", content, bits) for bits in backbone.bits}
    cosines, overlaps = (
        {bits: backbone.array("cams", metric, content, bits) for bits in backbone.bits} for metric in ("cosine", "iou")
    )
    answers = {bits: backbone.predicted(content, bits) for bits in backbone.bits}
    columns = []
    for index in images:
        panels = []
        for bits in backbone.bits:
            alike = f"{short(float(cosines[bits][index]))}   {short(float(overlaps[bits][index]))}"
            panels.append(Panel(cams[bits][index], f"{shortened(answers[bits][index], 14)}\n{alike}"))
        name = shortened(backbone.class_name(int(labels[index])), 12)
        columns.append(Column(name, as_picture(pixels[index]), panels, difference_box(clean[index], pixels[index])))
    notes = [_note(means, content, bits, reference=bits == backbone.bits[0]) for bits in backbone.bits]
    return PictureGroup(content, columns, (0.0, 1.0), "Grad-CAM, relative to the panel's largest", notes, smooth=True)


def _note(means: Mapping[tuple[str, str, str], Mapping[str, Any]], content: str, bits: str, *, reference: bool) -> str:
    if reference:
        return "reference"
    rows = [means[content, bits, metric] for metric in ("cosine", "iou")]
    found = [f"{name} {short(row['value'])}" for name, row in zip(("cos", "IoU"), rows, strict=True)]
    chances = " ".join(short(row["chance"]) for row in rows if row["chance"] is not None)
    return "\n".join([f"mean of {rows[0]['n_images']}", *found, *(["chance", chances] if chances else [])])
