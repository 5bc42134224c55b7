"""Double-Win Quant: random precision training (Fu et al. 2021, ICML, PMLR 139).

Every step draws one bit-width uniformly; the attack and the update both run at it, and the loss is on adversarial
images only. One BatchNorm per width, the paper's other ingredient, is what the quantizer `qat` does. Its other half,
random precision inference, is the quantizer `random_precision`. Details from the authors' code
(github.com/GATECH-EIC/Double-Win-Quant), which draws from 4..16 bits: PGD of 7 steps from a random start, in training
mode, so that BatchNorm and observers of the width also see the seven iterates. There `scale: min_max` and
`first_last: float` of the quantizer `qat` are how it quantizes; SGD with rate 0.1 and weight decay 5e-4, divided by
ten at 50 and 75 % of 160 epochs, is how it learns. It keeps the weights of the best epoch under PGD on test images;
here the last ones count.

The authors have neither 2 nor 32 bits. 2 is drawn like any width here, and 32 is one more of them unless it is kept
apart.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.ops.crafting.pixel_attacks import random_start
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.ops.training.adversarial_batches import ascended_images, drawn_bits
from qpatchbench.types import FLOAT, Bits, Losses, Network


class DoubleWinQuant(Defense):
    """Adversarial training at one random bit-width per step."""

    version: ClassVar[int] = 2

    adversarial: bool = Field(
        default=True,
        description="false: random precision training without the attack, which is not the method but probably what "
        "TriQDef measured under its name (table 17: 1.05 times the cost of plain training, where seven attack steps "
        "cost eight times); give it a label such as dwq_without_at",
    )
    float_member: bool = Field(
        default=True,
        description="true: 32 bits, where the suite has them, are drawn as often as every other width (own choice); "
        "false: they are a network of their own, which shares no weights and is trained at 32 bits alone",
    )
    epsilon: float = Field(
        default=8 / 255, gt=0, le=1, description="largest change of a pixel", json_schema_extra={"unit": "1 = white"}
    )
    step_size: float = Field(
        default=2 / 255, gt=0, le=1, description="change of a pixel per step", json_schema_extra={"unit": "1 = white"}
    )
    steps: int = Field(default=7, ge=1, description="attack steps per training step")
    attack_mode: Literal["train", "eval"] = Field(
        default="train",
        description="mode of the network under attack: train, as in the authors' code, lets BatchNorm statistics and "
        "observers of the width see every iterate; eval leaves them as they are",
    )

    def bit_groups(self, bits: tuple[Bits, ...]) -> tuple[tuple[Bits, ...], ...]:
        """All bits in one network, or 32 apart."""
        quantized = tuple(width for width in bits if width != FLOAT)
        if self.float_member or len(quantized) in (0, len(bits)):
            return (bits,)
        return quantized, (FLOAT,)

    def drawn_bits(self, step: Step) -> Bits:
        """The width of a step, uniform over the active ones; nothing but the step decides it."""
        return drawn_bits(step.bits, step.draws("width"))

    def passes(self, bits: tuple[Bits, ...]) -> float:
        """One width, forward and backward: once for every attack step and once for the update."""
        return 3.0 * (self.steps * self.adversarial + 1)

    def graphs_at_once(self, bits: tuple[Bits, ...]) -> int:
        """That of the width of a step."""
        return 1

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Mean cross-entropy at the width of the step, on adversarial images or, without the attack, clean ones."""
        width = self.drawn_bits(step)
        images = batch.images
        if self.adversarial:
            with nullcontext() if self.attack_mode == "train" else network.evaluating():
                images = self.attacked(network.at(width), batch, step)
        loss = torch.nn.functional.cross_entropy(network.at(width)(images), batch.labels)
        return {"adversarial" if self.adversarial else "clean": loss}

    def attacked(self, network: Network, batch: Batch, step: Step) -> torch.Tensor:
        """Images (B, 3, H, W) within `epsilon` of the batch's and in [0, 1], after the last step.

        Signed ascent on the cross-entropy, Madry et al. 2018, arXiv 1706.06083, section 2.1.
        """
        draws = ImageDraws.of(len(batch.images), step.draws("start"), batch.images.device)
        return ascended_images(
            network, batch.images, batch.labels, random_start(batch.images, draws, self.epsilon),
            epsilon=self.epsilon, step_size=self.step_size, steps=self.steps,
        )  # fmt: skip
