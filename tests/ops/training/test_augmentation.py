"""Crops and flips against a loop of numpy slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from qpatchbench.ops.training.augmentation import random_crop, random_flip


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, height: int, width: int) -> torch.Tensor:
    """Images whose pixels all differ, 1..H*W, the same in each; uint8, never 0, so that padding shows."""
    values = torch.arange(1, height * width + 1, dtype=torch.uint8).view(1, 1, height, width)
    return values.repeat(count, 3, 1, 1)


def shift_of(original: np.ndarray, cropped: np.ndarray, padding: int) -> tuple[int, int]:
    """The one shift that explains a crop, found by trying all."""
    padded = np.pad(original, ((0, 0), (padding, padding), (padding, padding)))
    height, width = original.shape[1:]
    found = [
        (row, column)
        for row in range(2 * padding + 1)
        for column in range(2 * padding + 1)
        if np.array_equal(padded[:, row : row + height, column : column + width], cropped)
    ]
    assert len(found) == 1, f"{len(found)} shifts explain the crop, expected 1"
    return found[0]


@pytest.mark.parametrize(("height", "width", "padding"), [(12, 12, 2), (8, 15, 3), (5, 5, 0)])
def test_a_crop_is_a_window_of_the_padded_image(height: int, width: int, padding: int) -> None:
    images = numbered(40, height, width)
    cropped = random_crop(images, padding, draws(0))
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    for original, result in zip(images.numpy(), cropped.numpy(), strict=True):
        shift_of(original, result, padding)


def test_shifts_are_uniform_and_independent() -> None:
    images = numbered(3000, 6, 6)
    cropped = random_crop(images, 1, draws(1))
    counts = np.zeros((3, 3))
    for original, result in zip(images.numpy(), cropped.numpy(), strict=True):
        counts[shift_of(original, result, 1)] += 1
    assert chisquare(counts.ravel()).pvalue > 1e-4


def test_a_flip_mirrors_left_to_right_half_of_the_time() -> None:
    images = numbered(2000, 4, 6)
    flipped = random_flip(images, draws(2))
    kept = (flipped == images).flatten(1).all(dim=1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(dim=1)
    assert (kept ^ mirrored).all()
    assert 900 < int(mirrored.sum()) < 1100


def test_augmentation_keeps_range_dtype_and_input() -> None:
    images = torch.randint(0, 256, (32, 3, 8, 8), generator=draws(3), dtype=torch.uint8)
    before = images.clone()
    result = random_flip(random_crop(images, 1, draws(4)), draws(5))
    assert torch.equal(images, before)
    assert result.dtype == torch.uint8
    assert np.isin(result.numpy(), [0, *np.unique(images.numpy())]).all()


def test_draws_come_from_the_generator_alone() -> None:
    images = torch.randint(0, 256, (32, 3, 8, 8), generator=draws(6), dtype=torch.uint8)
    state = torch.get_rng_state()

    def augmented(seed: int) -> torch.Tensor:
        generator = draws(seed)
        return random_flip(random_crop(images, 2, generator), generator)

    assert torch.equal(augmented(7), augmented(7))
    assert not torch.equal(augmented(7), augmented(8))
    assert torch.equal(torch.get_rng_state(), state)
