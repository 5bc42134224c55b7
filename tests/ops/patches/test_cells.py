"""Squares in cells, against numpy slicing and by counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qpatchbench.ops.patches.cells import as_pixels, cell_means, gradient_norms, largest_half, windows
from qpatchbench.ops.patches.locating import upright

SIDES = [(6, 6), (8, 8), (16, 8), (13, 8), (44, 8), (5, 3), (1, 1), (7, 2)]


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def borders(side: int, cells: int) -> list[int]:
    """First pixel of each cell, and the end: the smallest p with floor(p * cells / side) = cell."""
    return [-(-cell * side // cells) for cell in range(cells + 1)]


def test_norms_are_over_channels() -> None:
    gradients = torch.tensor([3.0, 4.0, 0.0, 1.0, 2.0, -2.0]).view(1, 2, 3, 1, 1)[0]
    assert gradient_norms(gradients).flatten().tolist() == [5.0, 3.0]


def test_windows_are_slices() -> None:
    maps = torch.rand(4, 9, 7, generator=draws(0))
    rows, columns = torch.tensor([0, 6, 2, 5]), torch.tensor([4, 0, 1, 3])
    cut = windows(maps, upright(rows, columns), 3)
    for index in range(4):
        row, column = int(rows[index]), int(columns[index])
        assert torch.equal(cut[index], maps[index, row : row + 3, column : column + 3])


@pytest.mark.parametrize(("side", "cells"), SIDES)
def test_cells_divide_the_square_evenly_and_without_rest(side: int, cells: int) -> None:
    limits = borders(side, cells)
    assert limits[0] == 0
    assert limits[-1] == side
    lengths = {end - start for start, end in zip(limits, limits[1:], strict=False)}
    assert max(lengths) - min(lengths) <= 1
    one_cell = torch.eye(cells * cells, dtype=torch.bool).view(-1, cells, cells)
    pixels = as_pixels(one_cell, side)
    assert pixels.shape == (cells * cells, 1, side, side)
    assert torch.equal(pixels.sum(dim=0), torch.ones(1, side, side)), "every pixel belongs to exactly one cell"
    for index, mask in enumerate(pixels[:, 0]):
        row, column = divmod(index, cells)
        expected = torch.zeros(side, side)
        expected[limits[row] : limits[row + 1], limits[column] : limits[column + 1]] = 1
        assert torch.equal(mask, expected)


@pytest.mark.parametrize(("side", "cells"), SIDES)
def test_means_are_those_of_slices(side: int, cells: int) -> None:
    squares = torch.rand(3, side, side, generator=draws(1))
    limits, means = borders(side, cells), cell_means(squares, cells)
    assert means.shape == (3, cells, cells)
    for row in range(cells):
        for column in range(cells):
            block = squares.numpy()[:, limits[row] : limits[row + 1], limits[column] : limits[column + 1]]
            assert np.allclose(means[:, row, column].numpy(), block.mean(axis=(1, 2)), atol=1e-6)


def test_means_of_equal_blocks_are_average_pooling() -> None:
    squares = torch.rand(2, 24, 24, generator=draws(2))
    assert torch.allclose(cell_means(squares, 8), torch.nn.functional.avg_pool2d(squares, 3), atol=1e-6)


@pytest.mark.parametrize("cells", [2, 4, 6, 8])
def test_exactly_half_is_selected_and_it_is_the_largest(cells: int) -> None:
    scores = torch.randn(20, cells, cells, generator=draws(3))
    chosen = largest_half(scores)
    assert chosen.flatten(1).sum(dim=1).tolist() == [cells * cells // 2] * 20
    for own, mask in zip(scores, chosen, strict=True):
        assert float(own[mask].min()) > float(own[~mask].max())


def test_ties_and_odd_numbers() -> None:
    assert largest_half(torch.zeros(2, 8, 8)).flatten(1).sum(dim=1).tolist() == [32, 32]
    assert largest_half(torch.rand(1, 3, 3, generator=draws(4))).sum() == 4
    assert largest_half(torch.zeros(1, 1, 1)).all()
