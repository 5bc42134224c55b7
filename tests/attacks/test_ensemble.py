"""Patches on several networks at once: the mean, the worst, and one network counted twice."""

from __future__ import annotations

import math

import pytest
import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.component import create
from qpatchbench.ops.crafting.losses import cross_entropy
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.registry import ATTACKS
from qpatchbench.testing.fixtures.oracles import linear_network
from qpatchbench.types import CraftTask, ImageSet, Network, Patch, Targeted, Untargeted

SIDE, SIZE, CLASSES = 8, 3, 3


def attack(name: str = "ensemble", **fields: object) -> Attack:
    settings = {"size": SIZE, "steps": 150, "batch_size": 16, "rotation": 0, **fields}
    made: Attack = create(ATTACKS, {"name": name, **settings})
    return made


def images(count: int = 80) -> ImageSet:
    """Black images of class 0, so that only the patch speaks."""
    pixels = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
    return ImageSet(pixels, torch.zeros(count, dtype=torch.int64), tuple(map(str, range(count))))


def leaning(*slopes: float) -> torch.nn.Module:
    """A linear network whose logit of class 1 rises by these slopes in red, green and blue, at every place alike."""
    weight = torch.zeros(CLASSES, 3, SIDE, SIDE)
    weight[1] = torch.tensor(slopes).view(3, 1, 1)
    return linear_network(weight.flatten(1)).requires_grad_(False)


def crafted(which: Attack, networks: tuple[Network, ...], seed: int = 1) -> Patch:
    return which.craft(CraftTask(networks, (Targeted(1),), images(), torch.Generator().manual_seed(seed)))


def loss(network: Network, patch: Patch) -> float:
    """Mean cross-entropy to the target over fresh places."""
    shown = images()
    placement = sample_placement(len(shown), (SIDE, SIDE), (SIZE, SIZE), torch.Generator().manual_seed(9))
    logits = network(paste(to_float(shown.pixels), patch.textures, patch.masks, placement))
    return float(cross_entropy(logits, shown.labels, torch.ones_like(shown.labels)).mean())


@pytest.mark.parametrize("weighting", ["mean", "worst"])
def test_a_network_counted_twice_is_gap_on_it(weighting: str) -> None:
    network = leaning(0.1, -0.2, 0.3)
    both = crafted(attack(weighting=weighting), (network, network))
    alone = crafted(attack("gap"), (network,))
    assert torch.allclose(both.textures, alone.textures, atol=1e-5)
    assert both.history == pytest.approx(alone.history, abs=1e-5)


@pytest.mark.numerical
def test_mean_and_worst_do_what_they_say() -> None:
    """Red helps a network that resists a little, and hurts one that is easily won by green a lot."""
    networks = (leaning(0.05, 0, 0), leaning(-0.4, 0.5, 0))
    patches = {weighting: crafted(attack(weighting=weighting, steps=300), networks) for weighting in ("mean", "worst")}
    losses = {name: [loss(network, patch) for network in networks] for name, patch in patches.items()}
    # By hand: with green at 1 the mean is least at red near 0.3, the worst of the two at red 1.
    red = {name: float(patch.textures[:, 0].mean()) for name, patch in patches.items()}
    assert 0.2 < red["mean"] < 0.45
    assert red["worst"] > 0.95
    assert sum(losses["mean"]) < sum(losses["worst"]) - 0.2
    assert max(losses["worst"]) == pytest.approx(math.log(1 + 2 * math.exp(-9 * 0.05)), abs=0.01)
    assert max(losses["worst"]) < max(losses["mean"]) - 0.1


@pytest.mark.numerical
def test_a_patch_for_all_works_on_each_better_than_that_of_another() -> None:
    networks = (leaning(0.3, -0.2, 0), leaning(0, 0.3, -0.2), leaning(-0.2, 0, 0.3))
    together = crafted(attack(), networks)
    alone = [crafted(attack("gap"), (network,)) for network in networks]
    least = min(max(loss(network, patch) for network in networks) for patch in alone)
    most = max(loss(network, together) for network in networks)
    assert most == pytest.approx(math.log(1 + 2 * math.exp(-9 * 0.1)), abs=0.01), "white is best for all three"
    assert most < least - 0.3


def test_the_order_of_networks_does_not_matter() -> None:
    networks = (leaning(0.3, -0.2, 0), leaning(0, 0.3, -0.2))
    first, second = crafted(attack(), networks), crafted(attack(), networks[::-1])
    assert torch.allclose(first.textures, second.textures, atol=1e-4)


@pytest.mark.parametrize("name", ["lavan", "gap"])
def test_universal_attacks_take_several_networks(name: str) -> None:
    networks = (leaning(0.3, 0, 0), leaning(0, 0.3, 0))
    which = create(ATTACKS, {"name": name, "size": SIZE, "steps": 20, "batch_size": 8})
    task = CraftTask(networks, (Targeted(1), Untargeted()), images(), torch.Generator().manual_seed(0))
    patch = which.craft(task)
    assert patch.textures.shape == (2, 3, SIZE, SIZE)
    assert len(patch.history) == 20
