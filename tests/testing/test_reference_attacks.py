"""The second implementations against exact answers, and that they share no arithmetic with the first."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from qpatchbench.attacks.gap import Gap
from qpatchbench.attacks.lavan import Lavan
from qpatchbench.attacks.universal import UniversalAttack
from qpatchbench.ops.crafting.losses import cross_entropy, logit_difference
from qpatchbench.ops.patches.pasting import paste
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.testing import reference_attacks
from qpatchbench.testing.fixtures.oracles import best_patch, linear_network, margin_gain
from qpatchbench.testing.reference_attacks import PlainGap, PlainLavan, PlainLoop, laid
from qpatchbench.types import CraftTask, ImageSet, Targeted, Untargeted

SIDE, SIZE = 8, 4


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=draws(0), dtype=torch.uint8)
    return ImageSet(pixels, torch.zeros(count, dtype=torch.int64), tuple(map(str, range(count))))


@pytest.mark.parametrize("kind", [PlainGap, PlainLavan])
@pytest.mark.parametrize("untargeted", [False, True])
def test_the_optimum_of_a_linear_network_is_reached(kind: type[UniversalAttack], untargeted: bool) -> None:
    weight = 0.02 * torch.randn(2, 3 * SIDE * SIDE, generator=draws(1))
    attack = kind.model_validate({"name": "plain", "size": SIZE, "steps": 300, "batch_size": 32})
    goal = Untargeted() if untargeted else Targeted(1)
    network = linear_network(weight).requires_grad_(False)
    patch = attack.craft(CraftTask((network,), (goal,), random_images(256), draws(2)))
    best = margin_gain(weight, best_patch(weight, 0, 1, SIDE, SIZE), 0, 1, SIDE)
    assert margin_gain(weight, patch.textures[0], 0, 1, SIDE) >= 0.95 * best
    assert len(patch.history) == 300


def test_a_patch_is_laid_as_the_harness_lays_it() -> None:
    images, texture = torch.rand(9, 3, 10, 7, generator=draws(3)), torch.rand(3, SIZE, SIZE, generator=draws(4))
    placement = sample_placement(9, (10, 7), (SIZE, SIZE), draws(5))
    own = laid(images, texture, placement.rows.numpy(), placement.columns.numpy())
    assert torch.equal(own, paste(images, texture[None], torch.ones(1, 1, SIZE, SIZE), placement))


@pytest.mark.parametrize(("kind", "objective"), [(PlainGap, cross_entropy), (PlainLavan, logit_difference)])
def test_losses_are_those_of_the_first(kind: type[PlainLoop], objective: object) -> None:
    assert callable(objective)
    attack = kind.model_validate({"name": "plain", "size": SIZE})
    logits, labels = torch.randn(50, 5, generator=draws(6)), torch.randint(5, (50,), generator=draws(7))
    rows = torch.eye(5)
    for target in (-1, 3):
        own = attack.loss(logits, rows[labels], None if target < 0 else rows[target])
        assert float(own) == pytest.approx(float(objective(logits, labels, torch.full((50,), target)).mean()), abs=1e-5)


def test_they_are_written_apart_from_the_first() -> None:
    """Nothing of ops, and no method that computes is inherited."""
    tree = ast.parse(Path(reference_attacks.__file__).read_text())
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in modules if name.startswith("qpatchbench.ops")]
    for kind in (PlainGap, PlainLavan):
        assert kind.craft is PlainLoop.craft


def test_every_place_is_laid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last row and column too, rows and columns apart from each other."""
    seen = np.zeros((SIDE - SIZE + 1, SIDE - SIZE + 1))

    def noted(images: torch.Tensor, texture: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
        np.add.at(seen, (rows, columns), 1)
        return laid(images, texture, rows, columns)

    monkeypatch.setattr(reference_attacks, "laid", noted)
    network = linear_network(torch.randn(2, 3 * SIDE * SIDE, generator=draws(8))).requires_grad_(False)
    attack = PlainLavan.model_validate({"name": "plain", "size": SIZE, "steps": 20, "batch_size": 64})
    attack.craft(CraftTask((network,), (Targeted(1),), random_images(64), draws(9)))
    assert (seen > 0).all()


def test_the_attacks_name_them() -> None:
    for attack, plain in ((Gap, PlainGap), (Lavan, PlainLavan)):
        assert attack.second == f"{plain.__module__}:{plain.__qualname__}"
        assert issubclass(plain, attack), "so that both have the same fields"
