"""Cropping as timm's evaluation does it, bit for bit, on images that are not square; timm is the reference."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from timm.data.transforms_factory import create_transform

from qpatchbench.data.fitting import CROP_MODES, INTERPOLATIONS, resized_and_cropped
from qpatchbench.errors import DataError

MEAN = (0.5, 0.4, 0.3)
SIZES = [(333, 500), (500, 333), (60, 41), (37, 90), (64, 64), (20, 33)]


def timms(image: Image.Image, side: int, fraction: float, interpolation: str, mode: str) -> np.ndarray[tuple[int, ...]]:
    transform = create_transform(
        (3, side, side), interpolation=interpolation, mean=MEAN, crop_pct=fraction, crop_mode=mode, normalize=False
    )
    found: np.ndarray[tuple[int, ...]] = np.asarray(transform(image))
    return found


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("fraction", [0.875, 0.95, 1.0])
def test_every_crop_mode_is_timms(crop_mode: str, fraction: float) -> None:
    fill = tuple(round(255 * value) for value in MEAN)
    fit = resized_and_cropped(48, fraction, "bicubic", crop_mode, fill)
    for size in SIZES:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
        expected = timms(image, 48, fraction, "bicubic", crop_mode)
        np.testing.assert_array_equal(np.asarray(fit(image)).transpose(2, 0, 1), expected, str(size))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_interpolation_is_timms(interpolation: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 60, 3), dtype=np.uint8))
    found = resized_and_cropped(28, 0.9, interpolation)(image)
    expected = timms(image, 28, 0.9, interpolation, "center")
    np.testing.assert_array_equal(np.asarray(found).transpose(2, 0, 1), expected)


def test_crop_modes_differ_on_an_image_that_is_not_square() -> None:
    ramp = np.tile(np.linspace(0, 255, 500).round().astype(np.uint8)[None, :, None], (333, 1, 3))
    made = {
        mode: np.asarray(resized_and_cropped(48, 1.0, "bilinear", mode)(Image.fromarray(ramp))) for mode in CROP_MODES
    }
    assert np.abs(made["center"].astype(float) - made["squash"]).mean() > 10
    assert (made["squash"][:, 0] < 10).all(), "squashed, the left end is still there"
    assert (made["center"][:, 0] > 30).all(), "cropped, it is lost"
    assert (made["border"][0] == 0).all(), "between borders of the given colour"


def test_a_line_of_pixels_does_not_become_a_plane() -> None:
    with pytest.raises(ValueError, match=r"^expected at most 50,000,000 pixels, found 256x2560000 = 655,360,000$"):
        resized_and_cropped(224, 0.875, "bilinear")(Image.new("RGB", (1, 10_000)))


def test_an_unknown_crop_mode_is_named() -> None:
    with pytest.raises(DataError, match=r"^unknown crop_mode 'centre' for image files. Did you mean: center\?"):
        resized_and_cropped(8, 1.0, "bilinear", "centre")
