"""MI-FGSM, the momentum iterative fast gradient sign method (Dong et al. 2018, arXiv 1710.06081, Algorithm 1).

g_(n+1) = decay * g_n + grad_x J(x_n, y) / ||grad_x J(x_n, y)||_1 and x_(n+1) = x_n + step_size * sign(g_(n+1)), cut to
the ball of radius epsilon and to [0, 1], from the clean image; towards a target the sign is the other one. QADT-R
prints the minus with the true label: a typo, because that step lowers the loss. 10 steps of epsilon / 10 and a decay
of 1 are the paper's (section 4.1). Studies of patches on quantized networks use epsilon = 0.015 and 0.03. The last
iterate of the paper is replaced by the best of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from pydantic import Field

from qpatchbench.attacks.pixel.base import PixelAttack
from qpatchbench.ops.crafting.pixel_attacks import Descent, perturbed_images, with_momentum
from qpatchbench.types import CraftTask, Patch


class MiFgsm(PixelAttack):
    """Steps along the sign of the accumulated gradient; made to transfer between networks."""

    expected_failures: ClassVar[Mapping[str, str]] = {
        "another_seed_gives_another_patch": "it starts at the clean image and draws nothing"
    }

    steps: int = Field(default=10, gt=0, description="steps; every one is taken")
    step_size: float | None = Field(
        default=None, gt=0, le=1, description="change of a pixel per step; epsilon / steps where none is given"
    )
    decay: float = Field(default=1.0, ge=0, description="how much of the accumulated gradient a step keeps; 0: none")

    def craft(self, task: CraftTask) -> Patch:
        """One adversarial image per goal and image."""
        step_size = self.epsilon / self.steps if self.step_size is None else self.step_size
        momentum = partial(with_momentum, decay=self.decay)
        return perturbed_images(task, Descent(self.epsilon, step_size, self.steps, momentum))

    def passes(self) -> float:
        """A gradient per step, and a look at what it gave."""
        return 4.0 * self.steps
