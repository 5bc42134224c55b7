"""Every kind of component works on a device that is not the CPU, and to the same effect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from qpatchbench.attacks.base import Attack
from qpatchbench.cli import cli
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
from tests.devices.second import NAME, SecondTensor, second_device

CPU = torch.device("cpu")
SMALL = 6  # images, of a grid of components


def test_operands_of_two_devices_are_refused_but_for_single_numbers() -> None:
    with second_device() as (device, reads):
        there = torch.arange(3.0).to(device)
        assert isinstance(there, SecondTensor)
        assert there.device.type == NAME
        assert (there * torch.tensor(2.0) + 1).cpu().tolist() == [1, 3, 5]
        with pytest.raises(
            RuntimeError, match="add: expected all tensors on 'seconddevice', found some on the CPU, of shape"
        ):
            there + torch.ones(3)
        with pytest.raises(
            RuntimeError, match="expected a generator of the device 'seconddevice', found one of the CPU"
        ):
            torch.rand(3, device=device, generator=torch.Generator())
        there[1:].add_(10)
        assert there.tolist() == [0, 11, 12]
        assert reads == {"to the device": 1, "from the device": 1, "tolist": 1}


def small_attack(name: str) -> Attack:
    """As little of it as makes sense."""
    attack: Attack = trial(ATTACKS.get(name), name)
    return attack


def crafted_on(device: torch.device, attack: Attack) -> Patch:
    network, images = attack_tasks.ground_for(attack, 0, SMALL)
    return attack_tasks.craft(attack, network.to(device), images.to(device))


@pytest.mark.parametrize("name", ATTACKS.entries)
def test_attacks(name: str) -> None:
    """Losses of the first step are equal, as draws are the CPU's, and so is what the patch comes to."""
    attack = small_attack(name)
    near = crafted_on(CPU, attack)
    with second_device() as (device, _):
        there = crafted_on(device, attack)
        far = torch.stack([texture.cpu() for texture in there.textures.detach()])
        masks = there.masks.cpu()
    assert far.shape == near.textures.shape
    assert masks.equal(near.masks)
    assert there.history[:1] == pytest.approx(near.history[:1], rel=1e-3)
    ground = attack_tasks.ground_for(attack, 0, SMALL)
    again = Patch(far, masks, there.goals, there.history, near.placement)
    losses = [attack_tasks.goal_losses(attack, *ground, patch).mean().item() for patch in (near, again)]
    if attack.name not in ("dpr", "patch_fool", "rao"):  # which also choose places or shapes
        assert losses[0] == pytest.approx(losses[1], abs=0.1)


def trained_on(device: torch.device, defense: Defense, group: int) -> tuple[dict[str, torch.Tensor], float]:
    task = trainings.task_for(defense, trainings.groups_of(defense)[group], 0)
    logs: list[Mapping[str, Any]] = []
    state = train(
        task, trainings.training_images(0), images_of(0, 16, role="calibration"), device=device, snapshot=None,
        save=lambda snapshot: logs.extend(snapshot.log),
    )  # fmt: skip
    return state, sum(logs[0]["losses"].values())


@pytest.mark.parametrize("name", DEFENSES.entries)
def test_defenses(name: str) -> None:
    """Trainings of 32, 8 and 4 bits begin alike and stay near each other."""
    defense: Defense = trial(DEFENSES.get(name), name)
    for group in range(len(trainings.groups_of(defense))):
        near, near_loss = trained_on(CPU, defense, group)
        with second_device() as (device, _):
            far, far_loss = trained_on(device, defense, group)
        assert far_loss == pytest.approx(near_loss, rel=0.05)
        assert far.keys() == near.keys()
        weights = [name for name, value in near.items() if value.is_floating_point()]
        gaps = [(far[name] - near[name]).norm() / near[name].norm().clamp_min(1e-3) for name in weights]
        assert torch.stack(gaps).median() < 0.05, "gaps that grow with signed steps and roundings, not with a mistake"


def answered(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and the gradient of their largest sum, on the CPU."""
    inputs = images.clone().requires_grad_()
    logits = network(inputs)
    (gradient,) = torch.autograd.grad(logits.square().sum(), inputs)
    return logits.detach().cpu(), gradient.cpu()


@pytest.mark.parametrize("name", QUANTIZERS.entries)
def test_quantizers(name: str) -> None:
    """A deployed network answers the same there, and has the same gradient."""
    quantizer: Quantizer = trial(QUANTIZERS.get(name), name)
    on = tried(quantizer, 0)
    network = deployed(quantizer, on, quantizer.bits[-1])
    network = getattr(network, "expected", network)
    near = answered(network, on.images)
    with second_device() as (device, _):
        far = answered(network.to(device), on.images.to(device))
    for one, other in zip(near, far, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PREPROCESSORS.entries)
def test_preprocessors(name: str) -> None:
    """A network behind one answers the same there."""
    preprocessor: Preprocessor = trial(PREPROCESSORS.get(name), name)
    images = to_float(images_of(0, SMALL).pixels)
    state = preprocessor.fit(images)

    def behind() -> nn.Module:
        made = preprocessed(float_network(0), preprocessor, state)
        return made.eval()

    near = behind()(images).detach()
    with second_device() as (device, _):
        far = behind().to(device)(images.to(device)).detach().cpu()
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)


SUITE = """
suite: elsewhere
dataset: {name: fake, image_size: 16, classes: 3, train_pool: 40, test_pool: 20, calibration_images: 8, craft_images: 8}
models: [resnet20]
training: {epochs: 1, batch_size: 8, learning_rate: 0.05, augmentation: crop_flip}
defenses: [qat]
quantizers: [{name: qat, bits: [32, 4]}, {name: dynamic, bits: [8]}]
preprocessors: [none, {name: smoothing}]
attacks:
  - {name: lavan, size: 4, targets: [1], steps: 2, batch_size: 4}
  - {name: sparse_rs, size: 4, queries: 3, targets: untargeted}
transfer: {sources: [32, same]}
analysis: {costs: qat, fewer_bits: true, similarity: true, maps: 2, images: 6}
evaluation: {images: 8, checks: full}
"""


def test_a_whole_run(tmp_path: Path) -> None:
    """Trains, deploys, crafts, evaluates, audits, compares and measures costs there; no job fails."""
    (tmp_path / "suite.yaml").write_text(SUITE)
    output = tmp_path / "out"
    with second_device() as (_, reads):
        result = CliRunner().invoke(
            cli,
            ["run", str(tmp_path / "suite.yaml"), "--output", str(output), "--display", "plain", "--device", NAME],
            standalone_mode=False,
            env={"QPATCHBENCH_CACHE": str(tmp_path / "cache"), "QPATCHBENCH_DATA": None},
        )
    assert result.exception is None, result.output
    assert result.return_value == 0, result.output
    assert reads["from the device"], "nothing ran there"
    cells = pd.read_parquet(output / "cells.parquet")
    assert len(cells) >= 8
    assert (output / "manifest.json").read_text().count("a second CPU") >= 2
