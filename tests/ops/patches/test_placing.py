"""Placements against the uniform distribution they claim, tested with chi-square."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare, kstest

from qpatchbench.ops.patches.placing import moved, sample_placement
from qpatchbench.types import Transformation

LEAST_P = 1e-4  # of fixed seeds, so that these tests cannot fail by chance


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("image", "patch"), [((32, 32), (6, 6)), ((12, 20), (5, 7)), ((9, 9), (8, 8))])
def test_rows_and_columns_are_uniform_and_independent(image: tuple[int, int], patch: tuple[int, int]) -> None:
    placement = sample_placement(40_000, image, patch, draws(1))
    rows, columns = image[0] - patch[0] + 1, image[1] - patch[1] + 1
    table = np.zeros((rows, columns))
    np.add.at(table, (placement.rows.numpy(), placement.columns.numpy()), 1)
    assert (table.sum(axis=1) > 0).all(), "a row is never reached; is the last one excluded?"
    assert (table.sum(axis=0) > 0).all(), "a column is never reached; is the last one excluded?"
    assert chisquare(table.sum(axis=1)).pvalue > LEAST_P
    assert chisquare(table.sum(axis=0)).pvalue > LEAST_P
    assert chisquare(table.ravel()).pvalue > LEAST_P
    assert chi2_contingency(table).pvalue > LEAST_P


def test_chi_square_notices_diagonal_places_and_a_missing_last_row() -> None:
    placement = sample_placement(40_000, (12, 12), (5, 5), draws(1))
    diagonal = np.zeros((8, 8))
    np.add.at(diagonal, (placement.rows.numpy(), placement.rows.numpy()), 1)
    assert chi2_contingency(diagonal).pvalue < LEAST_P
    exclusive = np.bincount(placement.rows.clamp(max=6).numpy(), minlength=8)
    assert chisquare(exclusive).pvalue < LEAST_P


def test_first_and_last_position_are_reached() -> None:
    placement = sample_placement(5000, (10, 14), (4, 3), draws(2))
    assert (int(placement.rows.min()), int(placement.rows.max())) == (0, 6)
    assert (int(placement.columns.min()), int(placement.columns.max())) == (0, 11)


def test_a_patch_of_the_whole_image_has_one_place() -> None:
    placement = sample_placement(100, (7, 9), (7, 9), draws(3))
    assert placement.rows.eq(0).all()
    assert placement.columns.eq(0).all()


def test_angles_and_scales_are_uniform_in_their_ranges() -> None:
    placement = sample_placement(20_000, (32, 32), (6, 6), draws(4), rotation=22.5, scale=(0.9, 1.3))
    assert kstest(placement.angles.numpy(), "uniform", (-22.5, 45.0)).pvalue > LEAST_P
    assert kstest(placement.scales.numpy(), "uniform", (0.9, 0.4)).pvalue > LEAST_P
    correlation = np.corrcoef([placement.rows, placement.columns, placement.angles, placement.scales])
    assert np.abs(correlation - np.eye(4)).max() < 0.03


def test_without_rotation_and_scale_nothing_is_warped() -> None:
    placement = sample_placement(50, (8, 8), (3, 3), draws(5))
    assert placement.angles.eq(0).all()
    assert placement.scales.eq(1).all()
    assert placement.rows.dtype == placement.columns.dtype == torch.int64
    assert placement.angles.dtype == placement.scales.dtype == torch.float32


def test_the_generator_decides() -> None:
    def drawn(seed: int) -> torch.Tensor:
        placement = sample_placement(64, (32, 32), (6, 6), draws(seed), rotation=10)
        return torch.stack([placement.rows, placement.columns, placement.angles])

    assert torch.equal(drawn(6), drawn(6))
    assert not torch.equal(drawn(6), drawn(7))


def test_patches_of_different_sizes_lie_in_corresponding_places() -> None:
    small = sample_placement(1000, (32, 32), (4, 4), draws(8), rotation=20)
    large = sample_placement(1000, (32, 32), (10, 10), draws(8), rotation=20)
    # One draw u of [0, 1): the row is floor(u * positions), so that u lies in an interval either row decides.
    for axis in ("rows", "columns"):
        low = torch.maximum(getattr(small, axis) / 29, getattr(large, axis) / 23)
        high = torch.minimum((getattr(small, axis) + 1) / 29, (getattr(large, axis) + 1) / 23)
        assert (low < high).all()
    assert torch.equal(small.angles, large.angles)


def test_the_first_of_few_images_and_of_many_differ_only_by_the_draw() -> None:
    """Placements depend on their number: cut a set after the draw, never draw for the cut set."""
    many = sample_placement(100, (32, 32), (6, 6), draws(9))
    assert torch.equal(many[:10].rows, many.rows[:10])
    assert len(many[torch.tensor([3, 5])]) == 2


def test_a_shift_wraps_around_and_keeps_places_uniform() -> None:
    placement = sample_placement(30_000, (32, 32), (6, 6), draws(2), rotation=5)
    for shift in ((2, 2), (8, 8), (18, 18), (27, 0)):
        shifted = moved(placement, Transformation(*shift), (6, 6), (32, 32))
        assert torch.equal(shifted.rows, (placement.rows + shift[0]) % 27)
        assert torch.equal(shifted.columns, (placement.columns + shift[1]) % 27)
        assert int(shifted.rows.max()) == int(shifted.columns.max()) == 26, "the last place is reached"
        assert chisquare(np.bincount(shifted.rows.numpy(), minlength=27)).pvalue > LEAST_P
        assert torch.equal(shifted.angles, placement.angles)
    assert torch.equal(moved(placement, Transformation(angle=20), (6, 6), (32, 32)).angles, placement.angles + 20)
    still = moved(placement, Transformation(), (6, 6), (32, 32))
    assert torch.equal(still.rows, placement.rows)
    assert torch.equal(still.angles, placement.angles)


def test_a_patch_as_large_as_the_image_has_one_place() -> None:
    whole = moved(sample_placement(5, (8, 8), (8, 8), draws(0)), Transformation(3, 5), (8, 8), (8, 8))
    assert whole.rows.tolist() == whole.columns.tolist() == [0] * 5
