"""PGD, projected gradient descent (Madry, Makelov, Schmidt, Tsipras, Vladu 2018, arXiv 1706.06083, section 2.1).

x_(n+1) = Pi(x_n + step_size * sign(grad_x J(x_n, y))), with Pi the projection onto the ball of radius epsilon and
onto [0, 1], from a random point of the ball; towards a target the sign is the other one. Studies of patches on
quantized networks run 20 steps (PGD-20) at epsilon = 0.015 and 0.03 and give no step size. A quarter of epsilon is
the ratio of Madry et al. on CIFAR-10 (steps of 2 in a ball of 8 levels, 7 and 20 steps). The last iterate of the
paper is replaced by the best of all of them, which is never weaker.
"""

from __future__ import annotations

from pydantic import Field

from qpatchbench.attacks.pixel.base import PixelAttack
from qpatchbench.ops.crafting.pixel_attacks import Descent, perturbed_images
from qpatchbench.types import CraftTask, Patch


class Pgd(PixelAttack):
    """Steps along the sign of the gradient, projected onto the ball."""

    steps: int = Field(default=20, gt=0, description="steps; every one is taken")
    step_size: float | None = Field(
        default=None, gt=0, le=1, description="change of a pixel per step; a quarter of epsilon where none is given"
    )
    random_start: bool = Field(default=True, description="start at a random point of the ball, not at the clean image")

    def craft(self, task: CraftTask) -> Patch:
        """One adversarial image per goal and image."""
        step_size = self.epsilon / 4 if self.step_size is None else self.step_size
        return perturbed_images(task, Descent(self.epsilon, step_size, self.steps, from_random=self.random_start))

    def passes(self) -> float:
        """A gradient per step, and a look at what it gave."""
        return 4.0 * self.steps
