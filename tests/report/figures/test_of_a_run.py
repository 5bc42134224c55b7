"""Pictures: what goes where, and how many."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qpatchbench.report.figures import of_a_run
from qpatchbench.report.figures.asr_by_bits import curve_pages
from qpatchbench.report.figures.drawing.mosaic import Tile, mosaic
from qpatchbench.report.figures.drawing.style import file_name, fixed_settings, png
from qpatchbench.report.figures.galleries import composite, pasted_groups, patch_groups
from qpatchbench.report.figures.transfer import heatmaps
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.leaderboard.class_names import shortened
from qpatchbench.runs.run import Run


@pytest.fixture(scope="module")
def run(simulated: Path) -> Run:
    return Run(simulated)


def test_composite_agrees_with_a_loop_over_pixels() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (3, 9, 11), np.uint8)
    texture = generator.integers(0, 256, (3, 4, 5), np.uint8)
    mask = generator.integers(0, 2, (1, 4, 5), np.uint8)
    before = pixels.copy()
    for row, column in ((0, 0), (5, 6), (2, 3)):  # the corners are inclusive
        expected = pixels.copy()
        for y in range(4):
            for x in range(5):
                if mask[0, y, x]:
                    expected[:, row + y, column + x] = texture[:, y, x]
        assert (composite(pixels, texture, mask, row, column) == expected).all()
    assert (pixels == before).all()


def test_patch_pixels_survive_into_the_picture() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [12, 34, 56]]], np.uint8)
    with fixed_settings():
        drawn = png(mosaic("title", [("row", [Tile(colours)])], ["head"]))
    with Image.open(io.BytesIO(drawn)) as image:
        found, sizes = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0, return_counts=True)
    counted = {tuple(colour): size for colour, size in zip(found.tolist(), sizes.tolist(), strict=True)}
    areas = [counted.get(tuple(colour), 0) for colour in colours.reshape(-1, 3).tolist()]
    assert min(areas) > 0.85 * max(areas) > 500  # hard edges: the four colours, alike in size, and nothing between


def test_heatmap_panels_hold_the_mode_and_its_float_network(run: Run) -> None:
    found = list(heatmaps(Leaderboard(run).rows))
    modes = {(each.rows[0].defense, each.mode) for each in found}
    assert modes == {("qat", "qat"), ("none", "ptq-minmax"), ("none", "fp")}
    for mode, rows in found:
        assert {row.quantization for row in rows} <= {mode, "fp"}
        places = [(row.source_model, row.source_defense, row.source_bits, row.target_bits) for row in rows]
        assert len(set(places)) == len(places)
        if mode != "fp" and rows[0].attack == "lavan":
            assert {row.target_bits for row in rows} == {"32", "8", "5", "4", "2"}
            assert {row.source_model for row in rows} == {"resnet20", "vgg16"}


def test_curve_pages_split_and_name_themselves(run: Run) -> None:
    found = list(curve_pages(Leaderboard(run).rows))
    assert [page.name for page in found] == [
        "bits_cifar10-jpeg_5x5_white-box",
        "bits_cifar10-jpeg_5x5_from-32-bits",
    ]
    white_box, from_float = (page.panels for page in found)
    assert len(white_box) == len(from_float) == 4
    assert all(row.lineage == "same-network" for panel in white_box for row in panel.rows)
    assert all(row.source_bits == "32" for panel in from_float for row in panel.rows)


def test_galleries_show_the_first_seed_and_one_source_each(run: Run) -> None:
    assert list(patch_groups(run)), "no gallery of patches"
    assert list(pasted_groups(run)), "no gallery of images"
    for cells in patch_groups(run):
        assert {cell.seed for cell in cells} == {0}
        assert len({cell.patch for cell in cells}) == len(cells)
    for cells in pasted_groups(run):
        assert len({cell.patch for cell in cells}) == 1
        assert {cell.model for cell in cells} == {cells[0].source_model}


def test_placements_and_predictions_are_read_by_image(run: Run) -> None:
    cell = next(cell for cell in run.cells if cell.patch_kind == "per_image")
    ids = ("test/00003", "test/00117")
    placed = run.placed(cell, ids)
    outcomes = run.outcomes(cell)
    for name in ids:
        number = int(name.removeprefix("test/"))
        assert placed[name][2:4] == (outcomes.clean[number], outcomes.patched[0, number])
        assert all(0 <= start <= 16 - 5 for start in placed[name][:2])


def test_bounds_hold_and_say_what_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_a_run, "MOST", {"transfer": 2, "bits": 1, "patches": 1, "pasted": 0})
    found = of_a_run.draw(run, Leaderboard(run).rows)
    assert [plot.name.split("_")[0] for plot in found.pictures] == ["bits", "transfer", "transfer", "patches"]
    assert found.left_out == (
        "bits: the first 1 of 2 pictures, in the leaderboard's order",
        "transfer: the first 2 of 10 pictures, in the leaderboard's order",
        "patches: the first 1 of 3 pictures, in the leaderboard's order",
        "pasted: the first 0 of 10 pictures, in the leaderboard's order",
    )


def test_names_that_differ_in_unsafe_characters_stay_apart(new_folder: Callable[..., Any]) -> None:
    folder = new_folder((0, 1, 2))
    for defense in ("a/b", "a b", "a:b"):
        folder.add((0, 1, 2), {"1": (1, 1, 2)}, defense=defense)
    run = Run(folder.write())
    names = [plot.name for plot in of_a_run.draw(run, Leaderboard(run).rows).pictures]
    assert len({name.lower() for name in names}) == len(names)
    assert sum(name.startswith("transfer_cifar10-jpeg_resnet20_a-b_") for name in names) == 3


def test_names_are_safe() -> None:
    assert file_name("a/../b", "c d\0", "", "é") == "a-..-b_c-d"
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"


def test_a_dollar_sign_in_a_class_name_is_no_formula(new_folder: Callable[..., Any]) -> None:
    folder = new_folder((0, 1, 2), class_names=["$\\frac{", "b", "c"])
    folder.add((0, 1, 2), {"1": (1, 1, 2)})
    run = Run(folder.write())
    found = of_a_run.draw(run, Leaderboard(run).rows)
    assert [plot.name.split("_")[0] for plot in found.pictures] == ["bits", "transfer", "patches", "pasted"]
