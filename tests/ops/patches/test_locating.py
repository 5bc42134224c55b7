"""Places: which are allowed, whether random ones are uniform, and whether the most sensitive one is found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from qpatchbench.errors import AttackError
from qpatchbench.ops.patches.locating import (
    Box,
    allowed_places,
    beside_the_box,
    most_sensitive_places,
    random_places,
    spaced_peaks,
    upright,
    window_energies,
)
from qpatchbench.ops.randomness import ImageDraws

LEAST_P = 1e-4  # of fixed seeds, so that these tests cannot fail by chance


def streams(count: int, seed: int) -> ImageDraws:
    return ImageDraws.of(count, torch.Generator().manual_seed(seed), torch.device("cpu"))


@pytest.mark.parametrize(("image", "patch"), [((6, 9), (2, 3)), ((5, 5), (5, 5)), ((7, 4), (1, 4))])
def test_window_energies_equal_numpy_slices(image: tuple[int, int], patch: tuple[int, int]) -> None:
    gradients = torch.randn(4, 3, *image, generator=torch.Generator().manual_seed(0))
    energies = window_energies(gradients, patch).numpy()
    assert energies.shape == (4, image[0] - patch[0] + 1, image[1] - patch[1] + 1)
    squares = gradients.double().numpy() ** 2
    for row, column in itertools.product(*map(range, energies.shape[1:])):
        window = squares[:, :, row : row + patch[0], column : column + patch[1]]
        assert np.allclose(energies[:, row, column], window.sum(axis=(1, 2, 3)), rtol=1e-12)


def test_window_energies_of_tiny_gradients_do_not_vanish() -> None:
    """Squares of 1e-25 are 0 in float32; a confident network has such gradients."""
    gradients = torch.zeros(1, 3, 6, 6)
    gradients[0, 0, 4, 5] = 1e-25
    energies = window_energies(gradients, (2, 2))[0]
    assert energies.flatten().argmax() in (3 * 5 + 4, 4 * 5 + 4)
    assert energies.max() > 0


@pytest.mark.parametrize("box", [Box(3, 2, 2, 4), Box(0, 0, 5, 5), Box(7, 8, 4, 9), Box(20, 20, 3, 3), None])
@pytest.mark.parametrize("patch", [(3, 3), (2, 4), (1, 1)])
def test_allowed_places_are_those_whose_pixels_are_outside_the_box(box: Box | None, patch: tuple[int, int]) -> None:
    allowed = allowed_places((9, 10), patch, box)
    assert allowed.shape == (9 - patch[0] + 1, 10 - patch[1] + 1)
    inside = np.zeros((40, 40), dtype=bool)
    if box is not None:
        inside[box.row : box.row + box.height, box.column : box.column + box.width] = True
    for row, column in itertools.product(*map(range, allowed.shape)):
        touches = inside[row : row + patch[0], column : column + patch[1]].any()
        assert bool(allowed[row, column]) == (not touches)


def test_no_room_beside_the_box_is_an_error() -> None:
    with pytest.raises(
        AttackError, match=r"a patch of 4 x 4 beside the excluded box \[2, 2, 6, 6\].*10 x 10, found none"
    ):
        allowed_places((10, 10), (4, 4), Box(2, 2, 6, 6))


@pytest.mark.parametrize(("image", "patch"), [((12, 20), (5, 7)), ((9, 9), (8, 8)), ((32, 32), (6, 6))])
def test_random_places_are_uniform_and_independent(image: tuple[int, int], patch: tuple[int, int]) -> None:
    placement = random_places(allowed_places(image, patch), streams(40_000, 1))
    table = np.zeros((image[0] - patch[0] + 1, image[1] - patch[1] + 1))
    np.add.at(table, (placement.rows.numpy(), placement.columns.numpy()), 1)
    assert (table.sum(axis=1) > 0).all(), "a row is never reached; is the last one excluded?"
    assert (table.sum(axis=0) > 0).all(), "a column is never reached; is the last one excluded?"
    assert chisquare(table.sum(axis=1)).pvalue > LEAST_P
    assert chisquare(table.sum(axis=0)).pvalue > LEAST_P
    assert chisquare(table.ravel()).pvalue > LEAST_P
    assert chi2_contingency(table).pvalue > LEAST_P
    assert placement.angles.eq(0).all()
    assert placement.scales.eq(1).all()


def test_random_places_of_one_image_are_uniform_too() -> None:
    """The draws of one stream, one after another, as the places of a search are."""
    allowed, draws = allowed_places((8, 8), (4, 4)), streams(40, 2)
    table = np.zeros((5, 5))
    for _ in range(500):
        placement = random_places(allowed, draws)
        np.add.at(table, (placement.rows.numpy(), placement.columns.numpy()), 1)
    assert chisquare(table.ravel()).pvalue > LEAST_P
    assert chi2_contingency(table).pvalue > LEAST_P


def test_random_places_beside_a_box_are_uniform_over_what_is_left() -> None:
    allowed = allowed_places((12, 12), (3, 3), Box(4, 4, 4, 4))
    placement = random_places(allowed, streams(30_000, 3))
    table = np.zeros(allowed.shape)
    np.add.at(table, (placement.rows.numpy(), placement.columns.numpy()), 1)
    assert table[~allowed.numpy()].sum() == 0
    assert chisquare(table[allowed.numpy()]).pvalue > LEAST_P


def test_only_places_on_the_box_are_replaced() -> None:
    allowed = allowed_places((12, 12), (3, 3), Box(4, 4, 4, 4))
    rows, columns = torch.arange(100) // 10, torch.arange(100) % 10
    placement = beside_the_box(upright(rows, columns), allowed, streams(100, 4))
    kept = allowed[rows, columns]
    assert 0 < int(kept.sum()) < 100
    assert torch.equal(placement.rows[kept], rows[kept])
    assert torch.equal(placement.columns[kept], columns[kept])
    assert allowed[placement.rows, placement.columns].all()


SIDE, SIZE = 8, 3


@pytest.mark.parametrize("candidates", [1, 5, 1000])
def test_the_only_sensitive_window_is_found_wherever_it_is(candidates: int) -> None:
    """Image i is looked at through window i only, for each of the 36 windows, the last ones included."""
    last = SIDE - SIZE + 1
    windows = torch.zeros(last * last, 1, SIDE, SIDE)
    for index in range(len(windows)):
        row, column = divmod(index, last)
        windows[index, 0, row : row + SIZE, column : column + SIZE] = 1
    images = 0.6 + 0.4 * torch.rand(len(windows), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    # The brighter the window, the higher the loss: all of it covered by grey is the lowest.
    found = most_sensitive_places(images, lambda x: (windows * x).flatten(1).sum(1), (SIZE, SIZE), candidates)
    assert torch.equal(found.rows * last + found.columns, torch.arange(len(windows)))


@pytest.mark.parametrize("patch", [(3, 3), (4, 2)])
def test_candidates_are_the_greedy_choice_of_windows_half_a_patch_apart(patch: tuple[int, int]) -> None:
    """Against a loop over sorted windows in plain Python."""
    energies = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(7)).double()
    rows, columns = spaced_peaks(energies, 6, patch)
    for image, energy in enumerate(energies.tolist()):
        ranked = sorted(((value, r, c) for r, row in enumerate(energy) for c, value in enumerate(row)), reverse=True)
        taken: list[tuple[int, int]] = []
        for _, r, c in ranked:
            if all(2 * abs(r - row) >= patch[0] or 2 * abs(c - column) >= patch[1] for row, column in taken):
                taken.append((r, c))
        taken = (taken + [taken[0]] * 6)[:6]
        assert list(zip(rows[image].tolist(), columns[image].tolist(), strict=True)) == taken


def test_grey_decides_between_candidates() -> None:
    """The steepest window is one that grey does not change; the second is lowered by it."""
    images = torch.full((2, 3, SIDE, SIDE), 0.9)
    images[:, :, :SIZE, :SIZE] = 0.5

    def losses(x: torch.Tensor) -> torch.Tensor:
        return 5 * x[:, :, :SIZE, :SIZE].sum(dim=(1, 2, 3)) + x[:, :, -SIZE:, -SIZE:].sum(dim=(1, 2, 3))

    trusting = most_sensitive_places(images, losses, (SIZE, SIZE), 1)
    assert trusting.rows.tolist() == trusting.columns.tolist() == [0, 0]
    trying = most_sensitive_places(images, losses, (SIZE, SIZE), 36)
    assert trying.rows.tolist() == trying.columns.tolist() == [SIDE - SIZE] * 2


def test_the_search_leaves_no_graph_and_refuses_nan() -> None:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(6))
    before = images.clone()
    most_sensitive_places(images, lambda x: x.square().flatten(1).sum(1), (SIZE, SIZE), 2)
    assert torch.equal(images, before)
    assert not images.requires_grad
    with pytest.raises(AttackError, match="not finite while places are searched"):
        most_sensitive_places(images, lambda x: x.flatten(1).sum(1) * float("nan"), (SIZE, SIZE), 2)
