"""How often the host waits for the device in a step of training or crafting."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.defenses.base import Defense, Step
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.registry import ATTACKS, DEFENSES
from qpatchbench.testing import trial
from qpatchbench.testing.fixtures import attack_tasks, trainings
from qpatchbench.testing.fixtures.networks_and_images import images_of
from qpatchbench.training.loop import begun_learner, take_step
from tests.devices.second import second_device

STEPS = 4
MOST_TRAINING = 8  # of a step: shifts, flips, the draws of an attack and its places
# Of a step of crafting. Attacks on a whole batch of images per step show their progress at each: to know whether a loss
# is finite, its mean, and how many images are broken. patch_apgd has 4 goals and 2 restarts here.
MOST_CRAFTING = {"gap": 0, "lavan": 0, "ensemble": 0, "lavan_per_image": 0, "mifgsm": 5, "pgd": 5, "patch_apgd": 24}


def reads_of_training(defense: Defense) -> float:
    bits = trainings.groups_of(defense)[0]
    with second_device() as (device, reads):
        calibration = images_of(0, 16, role="calibration")
        learner = begun_learner(trainings.task_for(defense, bits, 0), trainings.training_images(0), calibration, device)
        learner.module.train()
        draws, chosen, before = derive_generator(0, "epoch"), torch.arange(24, device=device), 0
        for index in range(STEPS + 1):
            if index == 1:  # what is made once, as momentum, is made
                before = reads.total()
            take_step(learner, chosen, Step(0.9, defense.active_bits(0.9, bits), draws, index, 0, learner.pool))
        return (reads.total() - before) / STEPS


@pytest.mark.parametrize("name", DEFENSES.entries)
def test_a_training_step_waits_seldom(name: str) -> None:
    defense: Defense = trial(DEFENSES.get(name), name)
    found = reads_of_training(defense)
    assert 0 < found <= MOST_TRAINING


def reads_of_crafting(attack: Attack) -> int:
    network, images = attack_tasks.ground_for(attack, 0, 8)
    with second_device() as (device, reads):
        network, images = network.to(device), images.to(device)
        before = reads.total()
        attack_tasks.craft(attack, network, images)
        return reads.total() - before


@pytest.mark.parametrize("name", MOST_CRAFTING)
def test_a_crafting_step_waits_seldom(name: str) -> None:
    """Steps beyond the first ten: progress is shown ten times, however many there are."""
    small: Attack = trial(ATTACKS.get(name), name)
    few, many = (type(small).model_validate({**small.model_dump(), "steps": steps}) for steps in (20, 40))
    assert (reads_of_crafting(many) - reads_of_crafting(few)) / 20 <= MOST_CRAFTING[name]
