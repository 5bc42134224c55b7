"""Sizes, transformations and the tasks that attacks get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from qpatchbench.types import CraftTask, ImageSet, Placement, Size, Targeted, Transformation, Untargeted

# Noise percentages and the sides they mean, floor(sqrt(q * H * W)), worked out by hand.
SIDES = {
    224: {"2%": 31, "3%": 38, "4%": 44, "5%": 50, "6%": 54, "8%": 63, "10%": 70},
    299: {"2%": 42, "5%": 66, "6%": 73, "8%": 84, "10%": 94},
    32: {"4%": 6, "8%": 9, "10%": 10, "100%": 32, "25%": 16, "0.01%": 1},
}


@pytest.mark.parametrize(
    ("side", "share", "expected"), [(s, q, e) for s, each in SIDES.items() for q, e in each.items()]
)
def test_a_share_of_the_image_is_a_side(side: int, share: str, expected: int) -> None:
    assert Size.parse(share).side(side) == expected
    assert Size.parse(share).side(side) ** 2 <= max(1, float(share[:-1]) / 100 * side * side) + 1e-9


def test_sizes_are_read_and_written() -> None:
    assert Size.parse(6) == Size.parse(Size(6)) == Size(pixels=6)
    assert [str(Size.parse(text)) for text in (6, "4%", "2.5 %")] == ["6x6", "4%", "2.5%"]
    assert Size.parse("4%").side(32) == Size(6).side(32) == Size(6).side(224) == 6


@pytest.mark.parametrize("value", [0, -4, 4.5, "6", "0%", "101%", "4 px", True, None, [6]])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="a side in pixels such as 6, or a share of the image such as 4%, found"):
        Size.parse(value)


def test_transformations_are_told_in_words() -> None:
    assert str(Transformation()) == ""
    assert str(Transformation(2, 2)) == "shift 2,2"
    assert str(Transformation(angle=12.5)) == "rotation 12.5"
    assert str(Transformation(0, 3, 5)) == "shift 0,3 rotation 5"


def task() -> CraftTask:
    images = ImageSet(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), torch.arange(3), ("a", "b", "c"))
    return CraftTask((torch.flatten,), (Untargeted(),), images, torch.Generator())


def test_a_task_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="a placement for each, found a task without them"):
        task().require_places()
    with pytest.raises(ValueError, match="one network to craft on, found 2"):
        _ = task().part(0, 1, networks=(torch.flatten, torch.flatten)).network
    with pytest.raises(ValueError, match="one goal at a time, found 2"):
        _ = task().part(0, 1, goals=(Targeted(0), Targeted(1))).goal
    assert task().images is task().crafting or len(task().images) == 3


def test_parts_of_a_task_report_their_share() -> None:
    told: list[float] = []

    def progress(fraction: float, figures: Mapping[str, float]) -> None:
        told.append(fraction)

    whole = replace(task(), progress=progress)
    for index in range(4):
        half = whole.part(index, 4)
        half.part(0, 2).progress(1.0, {})
        half.part(1, 2).progress(1.0, {})
    assert told == pytest.approx([eighth / 8 for eighth in range(1, 9)])


def test_images_and_places_are_chosen_by_mask_or_position() -> None:
    images = task().crafting
    assert images.chosen(torch.tensor([True, False, True])).ids == ("a", "c")
    assert images.chosen(torch.tensor([2, 0])).labels.tolist() == [2, 0]
    places = Placement(torch.arange(3), torch.arange(3), torch.zeros(3), torch.ones(3))
    both = Placement.concatenated([places, places[torch.tensor([1])]])
    assert both.rows.tolist() == [0, 1, 2, 1]
    assert len(both) == 4
