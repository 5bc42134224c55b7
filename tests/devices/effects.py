"""What every kind of component comes to on two devices: draws are the CPU's on both, so results are near each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pytest
import torch
from torch import nn

from qpatchbench.attacks.base import Attack
from qpatchbench.defenses.base import Defense
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.preprocessors.preprocessed import preprocessed
from qpatchbench.quantizers.base import Quantizer
from qpatchbench.registry import ATTACKS, DEFENSES, PREPROCESSORS, QUANTIZERS
from qpatchbench.testing import trial
from qpatchbench.testing.fixtures import attack_tasks, trainings
from qpatchbench.testing.fixtures.checkpoints import deployed, tried
from qpatchbench.testing.fixtures.networks_and_images import float_network, images_of
from qpatchbench.training.loop import train
from qpatchbench.types import Patch

CPU = torch.device("cpu")
SMALL = 6  # images
CHOOSING = ("dpr", "patch_fool", "rao")  # choose shapes or places too, where a last bit may turn a choice

Compared: TypeAlias = Callable[[str, torch.device], None]


def attack_is_alike(name: str, device: torch.device) -> None:
    """The loss of the first step is equal, and what the patch comes to is near."""
    attack: Attack = trial(ATTACKS.get(name), name)

    def crafted(on: torch.device) -> Patch:
        network, images = attack_tasks.ground_for(attack, 0, SMALL)
        return attack_tasks.craft(attack, network.to(on), images.to(on))

    near, there = crafted(CPU), crafted(device)
    far = torch.stack([texture.cpu() for texture in there.textures.detach()])
    masks = there.masks.cpu()
    assert far.shape == near.textures.shape
    assert masks.equal(near.masks)
    assert there.history[:1] == pytest.approx(near.history[:1], rel=1e-3)
    ground = attack_tasks.ground_for(attack, 0, SMALL)
    again = Patch(far, masks, there.goals, there.history, near.placement)
    losses = [attack_tasks.goal_losses(attack, *ground, patch).mean().item() for patch in (near, again)]
    if name not in CHOOSING:
        assert losses[0] == pytest.approx(losses[1], abs=0.1)


def defense_is_alike(name: str, device: torch.device) -> None:
    """Trainings of 32, 8 and 4 bits begin alike and stay near each other."""
    defense: Defense = trial(DEFENSES.get(name), name)

    def trained(on: torch.device, group: int) -> tuple[dict[str, torch.Tensor], float]:
        task = trainings.task_for(defense, trainings.groups_of(defense)[group], 0)
        logs: list[Mapping[str, Any]] = []
        state = train(
            task, trainings.training_images(0), images_of(0, 16, role="calibration"), device=on, snapshot=None,
            save=lambda snapshot: logs.extend(snapshot.log),
        )  # fmt: skip
        return state, sum(logs[0]["losses"].values())

    for group in range(len(trainings.groups_of(defense))):
        near, near_loss = trained(CPU, group)
        far, far_loss = trained(device, group)
        assert far_loss == pytest.approx(near_loss, rel=0.05)
        assert far.keys() == near.keys()
        weights = [name for name, value in near.items() if value.is_floating_point()]
        gaps = [(far[name] - near[name]).norm() / near[name].norm().clamp_min(1e-3) for name in weights]
        assert torch.stack(gaps).median() < 0.05, "gaps that grow with signed steps and roundings, not with a mistake"


def quantizer_is_alike(name: str, device: torch.device) -> None:
    """A deployed network answers the same, and has the same gradient."""
    quantizer: Quantizer = trial(QUANTIZERS.get(name), name)
    on = tried(quantizer, 0)
    network = deployed(quantizer, on, quantizer.bits[-1])
    network = getattr(network, "expected", network)
    near = _answered(network, on.images)
    far = _answered(network.to(device), on.images.to(device))
    for one, other in zip(near, far, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def preprocessor_is_alike(name: str, device: torch.device) -> None:
    """A network behind one answers the same."""
    preprocessor: Preprocessor = trial(PREPROCESSORS.get(name), name)
    images = to_float(images_of(0, SMALL).pixels)
    state = preprocessor.fit(images)

    def behind() -> nn.Module:
        made = preprocessed(float_network(0), preprocessor, state)
        return made.eval()

    near = behind()(images).detach()
    far = behind().to(device)(images.to(device)).detach().cpu()
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)


def _answered(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and the gradient of the sum of their squares, on the CPU."""
    inputs = images.clone().requires_grad_()
    logits = network(inputs)
    (gradient,) = torch.autograd.grad(logits.square().sum(), inputs)
    return logits.detach().cpu(), gradient.cpu()


KINDS: Mapping[str, tuple[Compared, tuple[str, ...]]] = {
    # A finished patch is read, and computed on no device.
    "attack": (attack_is_alike, tuple(name for name in ATTACKS.entries if not ATTACKS.get(name).external)),
    "defense": (defense_is_alike, tuple(DEFENSES.entries)),
    "quantizer": (quantizer_is_alike, tuple(QUANTIZERS.entries)),
    "preprocessor": (preprocessor_is_alike, tuple(PREPROCESSORS.entries)),
}
