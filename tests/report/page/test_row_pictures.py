"""Images that rows of a page open to: which they are, what is drawn, and what is said where there are none."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qpatchbench.ops.patches.pasting import paste, to_float, to_uint8
from qpatchbench.report.figures.of_a_run import Pictures
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.page.board_page import board_page
from qpatchbench.report.page.build import build
from qpatchbench.report.page.html import MOST_PICTURE_BYTES, page
from qpatchbench.report.page.image_sheet import SHARP, data_address
from qpatchbench.report.page.row_pictures import row_pictures
from qpatchbench.report.standings.experiments import read_experiments
from qpatchbench.report.standings.standing import standings
from qpatchbench.runs.layout import patch_file
from qpatchbench.runs.patch_file import read_patch
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import Run
from qpatchbench.statistics.intervals import Array
from qpatchbench.types import Placement
from tests.report.made_up_runs import row, write_run
from tests.report.run_folders import Folder
from tests.report.shown_images import ShownImage, opened, shown_images

LABELS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 2)
CLEAN = (0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 2)  # image 5 is wrong without a patch
UNDER = (0, 0, 1, 1, 4, 5, 1, 7, 1, 1, 0, 2)
NewFolder = Callable[..., Folder]


def page_of(path: Path) -> str:
    """Without plots, which take longest."""
    run = Run(path)
    return page(run, Leaderboard(run), Pictures((), ()))


def pictures_of(path: Path, number: int = 1) -> tuple[str, list[ShownImage]]:
    text = page_of(path)
    part = opened(text, f"log-{number}")
    return part, list(shown_images(text, part))


def pasted(path: Path, cell: CellRecord, place: int, texture: int) -> Array:
    """The image as the evaluation pastes it."""
    run = Run(path)
    stored, examples = read_patch(path / patch_file(cell.patch)), run.examples()
    name = f"test/{place:05d}"
    answer = run.placed(cell, (name,))[name]
    at, flat = torch.tensor([[answer.row], [answer.column]]), torch.zeros(1)
    image = paste(
        to_float(torch.from_numpy(examples.pixels[place][None])),
        to_float(torch.from_numpy(stored.textures[texture][None])),
        torch.from_numpy(stored.masks[texture][None]).float(),
        Placement(at[0], at[1], flat, flat + 1, upright=True),
    )
    return np.asarray(to_uint8(image)[0].numpy())


def test_a_row_shows_the_first_images_that_decide_with_label_and_answers(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    cell = folder.add(CLEAN, {"1": UNDER, "4": [4] * 12})
    path = folder.write()
    part, shown = pictures_of(path)
    assert "<dd>seed 0, target automobile; qpatchbench explain RUN 1</dd>" in part
    assert "<dt>fooled</dt><dd>3 of 5<div" in part
    assert "<dt>not fooled</dt><dd>3 of 5<div" in part
    assert [each.text for each in shown] == [
        # Image 1 is of the target class.
        "label bird: bird → automobile, test/00002",
        "label cat: cat → automobile, test/00003",
        "label frog: frog → automobile, test/00006",
        "label airplane: airplane → airplane, test/00000",
        "label deer: deer → deer, test/00004",
        "label horse: horse → horse, test/00007",
    ]
    for place, each in zip((2, 3, 6, 0, 4, 7), shown, strict=True):
        assert np.array_equal(each.pixels, pasted(path, cell, place, 0)), place


def test_every_image_has_its_own_of_patches_for_one_image_each(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    cell = folder.add(CLEAN, {"untargeted": UNDER}, patch_kind="per_image", goal_kind="untargeted")
    path = folder.write()
    part, shown = pictures_of(path)
    assert "<dd>seed 0, untargeted; qpatchbench" in part
    names = [int(each.text[-5:]) for each in shown]
    assert names == [1, 2, 3, 0, 4, 7]
    for place, each in zip(names, shown, strict=True):
        assert np.array_equal(each.pixels, pasted(path, cell, place, place)), place


def test_the_first_seed_that_finished_is_shown(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    folder.fail("Error: out of memory", seed=0)
    folder.add(CLEAN, {"1": [0] * 12}, seed=2)
    folder.add(CLEAN, {"1": UNDER}, seed=1)
    part, shown = pictures_of(folder.write())
    assert "<dd>seed 1, target automobile; " in part
    assert len(shown) == 6


def test_what_is_missing_is_said(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    folder.add(CLEAN, {"1": UNDER}, attack="a_turned", transformation="rotation 10")
    lost = folder.add(CLEAN, {"1": UNDER}, attack="b_lost")
    folder.fail("Error: out of memory", attack="c_failed")
    folder.add(CLEAN, {"1": UNDER}, attack="d_resized", image_height=32, image_width=32)
    folder.add([(label + 1) % 10 for label in LABELS], {"1": UNDER}, attack="e_never_right")
    path = folder.write()
    (path / patch_file(lost.patch)).unlink()
    text = page_of(path)
    reasons = (
        "a patch that is turned after crafting is not drawn here",
        f"{patch_file(lost.patch)} is not there",
        "no seed finished",
        "examples.safetensors has none of the size that resnet20 takes",
        "the rate is counted from none of the 12 images that the run keeps",
    )
    for number, reason in enumerate(reasons, 1):
        told = f"<dt>images</dt><dd>none here, as {reason}; qpatchbench explain RUN {number}</dd>"
        assert told in opened(text, f"log-{number}")


def test_a_page_made_from_logs_says_where_images_are(new_folder: NewFolder, tmp_path: Path) -> None:
    folder = new_folder(LABELS)
    folder.add(CLEAN, {"1": UNDER})
    path = folder.write()
    build(path, ["csv"])
    published = write_run(tmp_path / "published", [row(target_bits="4")])
    experiments = read_experiments([path, published])
    text = board_page(experiments, standings(experiments))
    told = f"<dd>none here, as this page is made from logs; qpatchbench explain {path.name} 1</dd>"
    assert told in opened(text, "log-1")
    told = f"none here, as {published.name} lacks the outcomes.parquet of this row, by which qpatchbench explain would "
    assert f"{told}name them" in opened(text, "log-2")
    assert 'class="symbols' not in text


def test_a_full_page_shows_one_of_a_kind_before_a_second(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    for attack in ("a", "b", "c"):
        folder.add(CLEAN, {"1": UNDER}, attack=attack)
    run = Run(folder.write())
    rows = Leaderboard(run).rows

    def counts(most: int) -> list[list[int]]:
        return [[len(group.pictures) for group in row[1:]] for row in row_pictures(run, rows, most).rows]

    whole = row_pictures(run, rows)
    texts = [text for row in whole.rows for group in row for text in group.pictures]
    size = sum(len(text.encode()) for text in [*texts, *(symbol.svg for symbol in whole.symbols)])
    assert counts(size) == [[3, 3]] * 3
    assert counts(size - 1) == [[3, 3], [3, 3], [3, 2]]
    found = sum(counts(size * 2 // 3), [])
    assert (min(found), max(found)) in ((1, 2), (2, 3))
    (none,) = row_pictures(run, rows, 0).rows[1]
    assert none.text == "none here, as the page would be too large; qpatchbench explain RUN 2"


def test_names_of_classes_and_images_are_escaped(new_folder: NewFolder) -> None:
    folder = new_folder([9] * 3, class_names=[*"abcdefghi", '<b>"truck" & trailer, of great length'])
    folder.add([9] * 3, {"1": [0, 9, 9]})
    _, shown = pictures_of(folder.write())
    assert shown[0].text == 'label <b>"truck" & trailer, o…: <b>"truck" & trailer, o… → a, test/00000'


def test_small_images_are_exact_and_large_ones_made_smaller() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    mask = np.ones((1, 8, 8), np.uint8)
    mask[0, 0, 0] = 0
    for given, mode in ((None, "RGB"), (np.ones_like(mask), "RGB"), (mask, "RGBA")):
        kind, data = data_address(pixels, given).removeprefix("data:image/").split(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (kind, image.mode) == ("png", mode)
        drawn = np.moveaxis(np.asarray(image), -1, 0)
        assert np.array_equal(drawn[:3], pixels * mask if mode == "RGBA" else pixels)
        assert mode == "RGB" or np.array_equal(drawn[3:], 255 * mask)
    large = np.full((3, 224, 224), 120, np.uint8)
    kind, data = data_address(large, None, SHARP / 224).removeprefix("data:image/").split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (kind, image.size) == ("jpeg", (SHARP, SHARP))
    assert abs(int(np.asarray(image)[50, 50, 0]) - 120) <= 2
    hole = np.zeros((1, 50, 50), np.uint8)
    assert data_address(large[:, :50, :50], hole, SHARP / 224).startswith("data:image/png;")


@pytest.mark.parametrize("side", [32, 224])
def test_a_page_of_500_rows_with_images_stays_under_3_mb(new_folder: NewFolder, side: int) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 64)
    patch = 6 if side == 32 else 50
    folder = new_folder(labels, resolved={"suite": "large"}, jobs=[{"label": "x" * 600}] * 500)
    size: dict[str, Any] = {"patch_height": patch, "patch_width": patch, "image_height": side, "image_width": side}
    for defense in range(10):
        for bits in ("32", "8", "5", "4", "2"):
            for source in dict.fromkeys(("32", bits)):
                for attack in "abcdef"[: 6 if source == bits else 5]:
                    under = np.where(generator.random(64) < 0.5, labels, 1)
                    facts: dict[str, Any] = {"defense": f"defense{defense}", "target_bits": bits, "source_bits": source}
                    folder.add(labels, {"1": under}, attack=attack, **facts, **size)
    run = Run(folder.write(side=side, kept=64))
    board = Leaderboard(run)
    assert len(board.rows) == 500
    text = page(run, board, Pictures((), ()))
    assert len(text.encode()) + MOST_PICTURE_BYTES * 4 / 3 < 3_000_000
    shown = [part.count('class="shown"') for part in text.split('class="more" id="log-')[1:]]
    assert len(shown) == 500
    assert min(shown) >= 2, "one of a kind"
