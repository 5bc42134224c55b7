"""Images that a run keeps to be shown: which they are, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from qpatchbench.errors import ArtifactError
from qpatchbench.runs.example_images import EACH, FIRST, MOST, DecidingImages, Examples, deciding_images, images_to_keep
from qpatchbench.runs.outcomes import Outcomes
from qpatchbench.statistics.intervals import Array


def of(fooled: tuple[int, ...], not_fooled: tuple[int, ...] = ()) -> DecidingImages:
    return DecidingImages(np.array(fooled, np.int64), np.array(not_fooled, np.int64))


def test_only_images_that_the_rate_is_counted_from_decide() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    clean = np.array([0, 1, 2, 1, 1, 2])  # image 3 is wrong without a patch
    patched = np.array([[2, 1, 2, 0, 0, 1], [0, 0, 0, 0, 0, 0]])
    attacked = np.array([[True, True, True, True, True, False], [True] * 6])
    found = deciding_images(Outcomes(labels, clean, patched, ("1", "2"), attacked))
    assert found.fooled.tolist() == [0], "images 1 and 4 are of the target class, image 5 was left alone"
    assert found.not_fooled.tolist() == [2]


def test_every_cell_gets_its_first_images_and_one_serves_all() -> None:
    assert EACH == 3
    cells = [of((9, 10, 11, 12)), of((10, 20, 21, 22), (30,))]
    # First round: 9, 10 and 30; 10 is the first cell's second too. Then 20, and 11 and 21 in the last round.
    assert images_to_keep(cells, (), 40) == [9, 10, 11, 20, 21, 30]
    # 11, 12 and 20 count from the start: 30; then the second cell's 10, the first's third; then 21.
    assert images_to_keep(cells, (11, 12, 20), 40) == [10, 21, 30]
    assert images_to_keep([], (0, 1), 40) == []


def test_no_more_are_kept_than_a_folder_should_hold() -> None:
    apart = [of((3 * number, 3 * number + 1, 3 * number + 2)) for number in range(MOST)]
    kept = images_to_keep(apart, (), 3 * MOST)
    assert kept == [3 * number for number in range(MOST)], "each cell's first before any cell's second"
    assert len(images_to_keep(apart, range(100, 100 + FIRST), 3 * MOST)) == MOST - FIRST


def write(path: Path, **arrays: Array) -> Path:
    whole: dict[str, Array] = {"pixels": np.zeros((2, 3, 4, 4), np.uint8), "labels": np.zeros(2, np.int64)}
    save_file({**whole, **arrays}, path, metadata={"ids": json.dumps(["a", "b"])})
    return path


def test_models_with_another_crop_have_pixels_of_their_own(tmp_path: Path) -> None:
    own = np.ones((2, 3, 4, 4), np.uint8)
    found = Examples(write(tmp_path / "examples.safetensors", **{"pixels/timm/a": own}))
    assert np.array_equal(found.pixels_of("timm/a"), own)
    assert found.pixels_of("timm/b") is found.pixels
    assert found.places.tolist() == [0, 1], "a run of before kept the first images"


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": np.zeros(3, np.int64)},
        {"places": np.zeros(1, np.int64)},
        {"places": np.zeros(2, np.float32)},
        {"places": np.array(0)},
        {"pixels": np.zeros((2, 4), np.uint8)},
        {"pixels/other": np.zeros((2, 3, 5, 5), np.uint8)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Array]) -> None:
    path = write(tmp_path / "examples.safetensors", **arrays)
    with pytest.raises(ArtifactError, match=r"examples.safetensors: expected pixels, labels and places of 2 images"):
        Examples(path)
