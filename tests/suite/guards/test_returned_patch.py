"""What attacks may return: a patch of the right type, goals, shapes and figures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from qpatchbench.errors import AttackError
from qpatchbench.suite.guards.returned_patch import require_patch
from qpatchbench.types import Patch, Placement, Targeted

GOALS = (Targeted(1), Targeted(2))
GOOD = Patch(torch.rand(2, 3, 4, 4), torch.ones(2, 1, 4, 4), GOALS, (0.5, 1, float("nan")))


def test_what_was_asked_for_is_accepted() -> None:
    require_patch("craft x", GOOD, GOALS, 2, 4, 8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"goals": GOALS[::-1]}, "expected a patch for the goals 1, 2, found 2, 1"),
        ({"goals": ()}, "expected a patch for the goals 1, 2, found none"),
        ({"textures": torch.rand(1, 3, 4, 4)}, "expected textures (2, 3, h, w), found (1, 3, 4, 4)"),
        ({"textures": torch.rand(2, 1, 4, 4)}, "expected textures (2, 3, h, w), found (2, 1, 4, 4)"),
        ({"textures": torch.rand(2, 3, 4, 5)}, "expected a patch of 4x4 pixels, found 4x5"),
        ({"textures": torch.zeros(2, 3, 4, 4).int()}, "expected textures as a tensor of floats, found torch.int32"),
        ({"textures": None}, "expected textures as a tensor of floats, found NoneType"),
        ({"textures": torch.full((2, 3, 4, 4), torch.nan)}, "the patch is not finite"),
        ({"masks": torch.ones(1, 1, 4, 4)}, "expected masks (2, 1, 4, 4), found (1, 1, 4, 4)"),
        ({"history": (0.5, "low")}, "expected a history of numbers, found 'low' at step 1"),
        ({"history": (True,)}, "expected a history of numbers, found True at step 0"),
        ({"queries": torch.ones(3)}, "expected 2 queries, found (3,)"),
        ({"placement": Placement(*torch.zeros(4, 5))}, "expected 2 rows, found (5,)"),
    ],
)
def test_anything_else_is_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(AttackError) as told:
        require_patch("craft x", dataclasses.replace(GOOD, **changed), GOALS, 2, 4, 8)
    assert str(told.value) == f"craft x: {message}"


def test_something_that_is_no_patch_is_told() -> None:
    with pytest.raises(AttackError, match="craft x: expected the attack to return a Patch, found tuple"):
        require_patch("craft x", (GOOD.textures, GOOD.masks), GOALS, 2, 4, 8)
