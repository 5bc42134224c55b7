"""PBCAT-cls: patch-based composite adversarial training (Li et al. 2025, ICCV, arXiv 2506.23581), for classifiers.

The paper trains object detectors; this is a port, which it does not describe. Every image is changed in two ways at
once: strongly on half of a square, the half where the gradient at the clean image is largest, and weakly everywhere
else:

    x' = clip(x + M * delta_patch + (1 - M) * delta_global),  |delta_patch| <= 64/255,  |delta_global| <= 4/255

The square is cut into 8 x 8 cells; those 32 with the largest mean L2 norm of the input gradient make up M. Both
changes follow the sign of the gradient, by 8/255 and 4/255 per step. These numbers, and that the global change ends
where M begins (the paper's objective adds it everywhere), are from the authors' code for Faster R-CNN
(github.com/LixiaoTHU/oddefense-PatchAT). What a port has to decide:

- the object is the whole image, the square has the size of the benchmark's patches, lies at a uniformly random place,
  and every image has one; there, every second object has one, near its centre (`patch_probability: 0.5`);
- the attack is ten steps of PGD from a random start in eval mode. The authors use free training, which replays every
  batch 8 times and keeps the noise from replay to replay: no step would depend on its own draws alone;
- a square of fewer than 8 pixels has one cell per pixel. The authors take all of it (`selection: square`), which at
  the 6 x 6 pixels of CIFAR would leave nothing of the selection;
- a network per bit-width, attacked and trained through its fake quantizers.

The benchmark's patches are not bounded; `patch_epsilon: 1.0, patch_step_size: 0.1` trains for that. `selection: random`
is the paper's ablation of the gradient.
"""  # noqa: D214 (a formula)

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.defenses.base import Batch, Defense, FixedBitsDefense, Step, SwitchableNetwork
from qpatchbench.ops.crafting.pixel_attacks import random_start
from qpatchbench.ops.patches.cells import as_pixels, cell_means, gradient_norms, largest_half, windows
from qpatchbench.ops.patches.locating import allowed_places, random_places
from qpatchbench.ops.patches.pasting import paste
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.ops.training.adversarial_batches import (
    ascended_images,
    cross_entropies,
    drawn_bits,
    fitting_side,
    least_batch,
    partly_attacked,
)
from qpatchbench.types import Bits, Losses, Network, Size


class PatchCompositeTraining(FixedBitsDefense):
    """Adversarial training with a patch where the gradient is large and weak noise everywhere else."""

    version: ClassVar[int] = 2

    size: Size = Field(
        default=Size(percent=4.0), description="side of the square in pixels, or the share of the image it covers"
    )
    cells: int = Field(
        default=8, ge=1, description="cells per side of the square; at most its pixels. With 1 all of it is selected"
    )
    selection: Literal["gradient", "random", "square"] = Field(
        default="gradient",
        description="which cells are changed strongly: the half with the largest gradient, a random half, or all",
    )
    patch_probability: float = Field(default=1.0, ge=0, le=1, description="share of the images with a square")
    epsilon: float = Field(
        default=4 / 255, ge=0, le=1, description="largest change of a pixel outside the selected cells",
        json_schema_extra={"unit": "1 = white"},
    )  # fmt: skip
    step_size: float = Field(
        default=4 / 255, gt=0, le=1, description="change of such a pixel per step",
        json_schema_extra={"unit": "1 = white"},
    )  # fmt: skip
    patch_epsilon: float = Field(
        default=64 / 255, ge=0, le=1, description="largest change of a pixel in the selected cells",
        json_schema_extra={"unit": "1 = white"},
    )  # fmt: skip
    patch_step_size: float = Field(
        default=8 / 255, gt=0, le=1, description="change of such a pixel per step",
        json_schema_extra={"unit": "1 = white"},
    )  # fmt: skip
    steps: int = Field(default=10, ge=1, description="attack steps per training step")
    adversarial_share: float = Field(default=1.0, ge=0, le=1, description="share of a batch that is attacked")

    @property
    def least_batch(self) -> int:
        """As many as have one in the attacked share."""
        return least_batch(self.adversarial_share)

    def baseline(self) -> Defense:
        """No image is attacked."""
        return self.model_copy(update={"adversarial_share": 0.0})

    def passes(self, bits: tuple[Bits, ...]) -> float:
        """Training at every width, the attack, and the gradient that selects cells."""
        return 3.0 * (len(bits) + self.adversarial_share * (self.steps + (self.selection == "gradient")))

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Cross-entropy of the attacked part and, if there is one, of the clean part, weighted by their shares.

        Raises:
            TrainingError: the batch is too small for an attacked part, or the square does not fit.
        """
        width = drawn_bits(step.bits, step.draws("width"))

        def attack(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            with network.evaluating():
                return self.attacked(network.at(width), images, labels, step)

        partly = partly_attacked(batch.images, batch.labels, self.adversarial_share, attack)
        return cross_entropies(network.at, step.bits, partly, "adversarial")

    def attacked(self, network: Network, images: torch.Tensor, labels: torch.Tensor, step: Step) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1], within each pixel's bound of the given ones, after the last step."""
        mask = self.mask(network, images, labels, step)
        epsilon = torch.where(mask > 0, self.patch_epsilon, self.epsilon)
        step_size = torch.where(mask > 0, self.patch_step_size, self.step_size)
        draws = ImageDraws.of(len(images), step.draws("start"), images.device)
        return ascended_images(
            network, images, labels, random_start(images, draws, epsilon),
            epsilon=epsilon, step_size=step_size, steps=self.steps,
        )  # fmt: skip

    def mask(self, network: Network, images: torch.Tensor, labels: torch.Tensor, step: Step) -> torch.Tensor:
        """(B, 1, H, W) in {0, 1}: the selected cells of each image's square."""
        side = fitting_side(self.size, images)
        cells = min(self.cells, side)
        draws = ImageDraws.of(len(images), step.draws("square"), images.device)
        placement = random_places(allowed_places((images.shape[-2], images.shape[-1]), (side, side)), draws)
        present = draws.uniform(1, 1, 1) < self.patch_probability
        scores = draws.uniform(cells, cells)
        if self.selection == "gradient":
            inputs = images.detach().requires_grad_()
            loss = torch.nn.functional.cross_entropy(network(inputs), labels, reduction="sum")
            (gradients,) = torch.autograd.grad(loss, inputs)
            scores = cell_means(windows(gradient_norms(gradients), placement, side), cells)
        selected = torch.ones_like(scores, dtype=torch.bool) if self.selection == "square" else largest_half(scores)
        pixels = as_pixels(selected, side)
        return paste(torch.zeros_like(images[:, :1]), pixels, torch.ones_like(pixels), placement) * present
