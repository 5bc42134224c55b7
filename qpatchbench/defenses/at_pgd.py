"""Adversarial training against small changes of the whole image (Madry et al. 2018, arXiv 1706.06083, section 2.1).

Every image of a batch is moved by PGD, signed steps from a random start inside an L_inf ball, and the network is
trained on the moved images only. Seven steps of 2/255 in a ball of 8/255 are the paper's for CIFAR-10, where they
call it 7-PGD. Which mode the network is attacked in is no part of the paper: eval (own choice) leaves BatchNorm
statistics and observers as they are, train lets them see every iterate, as the code of Double-Win Quant does.

The paper knows no quantization. `at_pgd` attacks through the fake quantizers, straight-through, at the width that is
trained; `at_pgd_float` trains the float network, to be deployed with fp, ptq or dynamic. It is a baseline: patches
are no small changes, and rounding may hide gradients from its attack as from any other.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.defenses.base import Batch, Defense, FixedBitsDefense, Step, SwitchableNetwork
from qpatchbench.ops.crafting.pixel_attacks import random_start
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.ops.training.adversarial_batches import (
    ascended_images,
    cross_entropies,
    drawn_bits,
    least_batch,
    partly_attacked,
)
from qpatchbench.types import Bits, Losses, Network


class FloatPgdAdversarialTraining(Defense):
    """Adversarial training with PGD on the float network."""

    quantization_aware: ClassVar[bool] = False

    epsilon: float = Field(
        default=8 / 255, ge=0, le=1, description="largest change of a pixel", json_schema_extra={"unit": "1 = white"}
    )
    step_size: float = Field(
        default=2 / 255, gt=0, le=1, description="change of a pixel per step", json_schema_extra={"unit": "1 = white"}
    )
    steps: int = Field(default=7, ge=1, description="attack steps per training step")
    attack_mode: Literal["eval", "train"] = Field(
        default="eval",
        description="mode of the network under attack: eval leaves BatchNorm statistics and observers as they are, "
        "train lets them see every iterate",
    )
    adversarial_share: float = Field(
        default=1.0, ge=0, le=1, description="share of a batch that is attacked; the paper trains on nothing else"
    )

    @property
    def least_batch(self) -> int:
        """As many as have one in the attacked share."""
        return least_batch(self.adversarial_share)

    def baseline(self) -> Defense:
        """No image is attacked."""
        return self.model_copy(update={"adversarial_share": 0.0})

    def passes(self, bits: tuple[Bits, ...]) -> float:
        """Training at every width, and the attack on its share of the batch."""
        return 3.0 * (len(bits) + self.adversarial_share * self.steps)

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Cross-entropy of the attacked part and, if there is one, of the clean part, weighted by their shares.

        Raises:
            TrainingError: the batch is too small for an attacked part.
        """
        width = drawn_bits(step.bits, step.draws("width"))

        def attack(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            with network.evaluating() if self.attack_mode == "eval" else nullcontext():
                return self.attacked(network.at(width), images, labels, step)

        partly = partly_attacked(batch.images, batch.labels, self.adversarial_share, attack)
        return cross_entropies(network.at, step.bits, partly, "adversarial")

    def attacked(self, network: Network, images: torch.Tensor, labels: torch.Tensor, step: Step) -> torch.Tensor:
        """Images (B, 3, H, W) within `epsilon` of the given ones and in [0, 1], after the last step."""
        draws = ImageDraws.of(len(images), step.draws("start"), images.device)
        return ascended_images(
            network, images, labels, random_start(images, draws, self.epsilon),
            epsilon=self.epsilon, step_size=self.step_size, steps=self.steps,
        )  # fmt: skip


class PgdAdversarialTraining(FixedBitsDefense, FloatPgdAdversarialTraining):
    """Adversarial training with PGD through fake quantizers, one network per bit-width."""

    version: ClassVar[int] = 2
    quantization_aware: ClassVar[bool] = True
