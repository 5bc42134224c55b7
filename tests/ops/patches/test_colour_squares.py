"""Proposals of Sparse-RS: exactly one change each, every change possible and equally likely, each image alone."""

from __future__ import annotations

import math

import pytest
import torch

from qpatchbench.ops.patches.colour_squares import patchwork, with_another_colour, with_channel_flipped, with_square
from qpatchbench.ops.randomness import ImageDraws

COUNT, SIDE = 4000, 5


def draws(count: int = COUNT, seed: int = 0) -> ImageDraws:
    return ImageDraws.of(count, torch.Generator().manual_seed(seed), torch.device("cpu"))


def painted(count: int = COUNT, seed: int = 1) -> torch.Tensor:
    """Random colours of {0, 1}^3."""
    return torch.randint(0, 2, (count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)).float()


def codes(colours: torch.Tensor) -> torch.Tensor:
    """(B, 3, ..) in {0, 1} -> (B, ..) in 0..7."""
    return (colours.movedim(1, -1) @ torch.tensor([4.0, 2.0, 1.0])).long()


def changed(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """(B, s, s) bool: pixels of which any channel differs."""
    return (before != after).any(dim=1)


def uniform(observed: torch.Tensor, cells: int) -> bool:
    """Whether values in 0..cells-1 are equally frequent, by a chi-square test at five standard deviations."""
    counts = observed.flatten().bincount(minlength=cells).float()
    assert len(counts) == cells, "a value beyond the last"
    expected = counts.sum() / cells
    distance = float(((counts - expected).square() / expected).sum())
    return distance <= cells - 1 + 5 * math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_a_square_has_one_size_one_colour_and_every_place(size: int) -> None:
    before = torch.full((COUNT, 3, SIDE, SIDE), 0.5)  # so that every colour shows
    after = with_square(before, size, draws())
    inside = changed(before, after)
    assert inside.sum(dim=(1, 2)).eq(size * size).all()
    rows, columns = (inside.any(dim=axis) for axis in (2, 1))
    assert rows.sum(dim=1).eq(size).all(), "not a square"
    assert columns.sum(dim=1).eq(size).all(), "not a square"
    places = SIDE - size + 1
    top, left = rows.float().argmax(dim=1), columns.float().argmax(dim=1)
    assert uniform(top * places + left, places * places), "the last row and column must be reached as often as others"
    corners = after[torch.arange(COUNT), :, top, left]
    assert uniform(codes(corners), 8)
    assert torch.equal(torch.where(inside[:, None], after, 0.0), inside[:, None] * corners[:, :, None, None])


def test_another_colour_is_another_and_any_of_the_seven() -> None:
    before = painted()
    after = with_another_colour(before, draws())
    assert changed(before, after).sum(dim=(1, 2)).eq(1).all()
    place = changed(before, after).flatten(1).float().argmax(dim=1)
    assert uniform(place, SIDE * SIDE)
    old, new = (codes(value.flatten(2)).gather(1, place.view(-1, 1)) for value in (before, after))
    assert uniform((new - old) % 8 - 1, 7)
    assert torch.unique(after).tolist() == [0.0, 1.0]


def test_a_flip_turns_one_channel_of_one_pixel() -> None:
    before = painted()
    after = with_channel_flipped(before, draws())
    different = before != after
    assert different.sum(dim=(1, 2, 3)).eq(1).all()
    assert uniform(different.flatten(1).float().argmax(dim=1), 3 * SIDE * SIDE)
    assert torch.equal(after[different], 1 - before[different])


@pytest.mark.parametrize("side", [1, 2, 3, 6, 16])
def test_a_patchwork_covers_all_and_favours_no_colour(side: int) -> None:
    count = max(64, 1000 // side)
    textures = patchwork(side, draws(count))
    assert textures.shape == (count, 3, side, side)
    assert set(torch.unique(textures).tolist()) == {0.0, 1.0}
    black = float((codes(textures) == 0).float().mean())
    assert black == pytest.approx(1 / 8, abs=0.04), "black where no square fell"
    alike = (textures[..., :-1] == textures[..., 1:]).all(dim=1).float().mean() if side > 2 else torch.tensor(1 / 8)
    # A square of one pixel makes independent pixels, which agree with probability 1/8; larger squares agree more.
    largest = max(1, math.ceil(math.sqrt(side)) - 1)
    assert (alike > 0.2) == (largest > 1), f"{float(alike)}"


def test_a_patchwork_is_what_painting_one_square_over_the_other_gives() -> None:
    """The same squares painted one by one, in the order that leaves the first on top."""
    side, count = 6, 5
    stream, own = draws(count, seed=3), draws(count, seed=3)
    expected = torch.zeros(count, 3, side, side)
    for square in reversed(own.uniform(1000, 6).double().unbind(dim=1)):
        for image, values in enumerate(square):
            size = 1 + int(values[0] * 2)  # ceil(sqrt(6)) - 1 = 2
            row, column = (int(value * (side - size + 1)) for value in values[1:3])
            expected[image, :, row : row + size, column : column + size] = (values[3:] * 2).floor()[:, None, None]
    assert torch.equal(patchwork(side, stream), expected)
    assert stream.drawn == own.drawn, "what is drawn later must not depend on when every pixel was covered"


@pytest.mark.parametrize("change", [with_another_colour, with_channel_flipped, lambda t, d: with_square(t, 2, d)])
def test_each_image_is_changed_by_its_own_draws(change: object) -> None:
    assert callable(change)
    before, own = painted(8), draws(8)
    together = change(before, own)
    stream = draws(8)
    for index in range(8):
        alone = change(before[index : index + 1], ImageDraws(stream.seeds[index : index + 1]))
        assert torch.equal(alone[0], together[index])
    assert torch.equal(before, painted(8)), "changed in place"
