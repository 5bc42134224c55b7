"""FGSM, the fast gradient sign method (Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572, section 4).

x' = x + epsilon * sign(grad_x J(x, y)), with J the cross-entropy of the label y; towards a target t the step is
x - epsilon * sign(grad_x J(x, t)), which lowers J(x, t) (Kurakin et al. 2017, arXiv 1611.01236, section 2). QADT-R
prints the minus with the true label: a typo, because that step lowers the loss of the label and makes the network
more certain of it. Studies of patches on quantized networks use epsilon = 0.015 and 0.03.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from qpatchbench.attacks.pixel.base import PixelAttack
from qpatchbench.ops.crafting.pixel_attacks import Descent, perturbed_images
from qpatchbench.types import CraftTask, Patch


class Fgsm(PixelAttack):
    """One step of epsilon in every pixel."""

    expected_failures: ClassVar[Mapping[str, str]] = {
        "another_seed_gives_another_patch": "it starts at the clean image and draws nothing"
    }

    def craft(self, task: CraftTask) -> Patch:
        """One adversarial image per goal and image."""
        return perturbed_images(task, Descent(self.epsilon, self.epsilon, steps=1))

    def passes(self) -> float:
        """One gradient, and one look at what came out."""
        return 4.0
