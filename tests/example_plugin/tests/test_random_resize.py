"""The conformance checks of every preprocessor, and what `random_resize` in particular does, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from qpatchbench.component import Component
from qpatchbench.testing import parametrize_with_checks

from qpatchbench_random_resize import RandomResize, between, nearest


@parametrize_with_checks([RandomResize(name="random_resize")])
def test_conformance(component: Component, check: Callable[[Component], None]) -> None:
    check(component)


def resized(images: torch.Tensor, smallest: float, seed: int = 0) -> torch.Tensor:
    preprocessor = RandomResize(name="random_resize", smallest=smallest)
    return preprocessor.apply(images, preprocessor.fit(images), torch.Generator().manual_seed(seed))


def test_no_shrinking_changes_nothing() -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(resized(images, smallest=1), images)


def test_a_white_image_keeps_as_many_pixels_as_its_side_says() -> None:
    found = resized(torch.ones(200, 3, 10, 10), smallest=0.8)[:, 0]
    counts = found.sum(dim=(1, 2)).int()
    assert set(counts.tolist()) == {64, 81, 100}
    corners = {(int(image.any(dim=1).int().argmax()), int(image.any(dim=0).int().argmax())) for image in found}
    assert corners == {(row, column) for row in range(3) for column in range(3)}, "every place is reached"


def test_sides_are_equally_likely() -> None:
    draws = [between(32, 0.75, step / 900) for step in range(900)]
    assert {side: draws.count(side) for side in range(24, 33)} == dict.fromkeys(range(24, 33), 100)


@pytest.mark.parametrize("wanted", [1, 5, 7, 8])
def test_kept_pixels_are_those_of_torch(wanted: int) -> None:
    ramp = torch.arange(8.0).view(1, 1, 8)
    expected = torch.nn.functional.interpolate(ramp, wanted, mode="nearest").flatten()
    assert torch.equal(ramp.flatten()[nearest(8, wanted)], expected)


def test_an_image_meets_the_same_draws_in_any_batch() -> None:
    images = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    preprocessor, generator = RandomResize(name="random_resize"), torch.Generator().manual_seed(3)
    halves = torch.cat([preprocessor.apply(part, {}, generator) for part in torch.split(images, 2)])
    assert torch.equal(halves, preprocessor.apply(images, {}, torch.Generator().manual_seed(3)))
