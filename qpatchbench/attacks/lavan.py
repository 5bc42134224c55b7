"""LaVAN: localized and visible adversarial noise (Karmon, Zoran, Goldberg 2018, arXiv 1801.02608).

The objective of section 3 is a difference of logits: raise the target's and lower that of the label. It is left as the
paper has it, although a third class may win meanwhile; the margin of `patch_apgd` excludes that, and so does the
cross-entropy of `gap`. The noise stays in the image domain, [0, 1]; the paper's network domain, where values may leave
the range of an image, is not an input that a camera or a file can deliver.

Two regimes of the paper: noise that works on many images at random places (`Lavan`, the one that patch-transfer
studies use), and noise for one image at a fixed place (`LavanPerImage`). The paper steps along the plain gradient,
whose scale differs by orders of magnitude between bit-widths; here steps do not depend on it: Adam for the
universal patch, the gradient divided by its largest absolute value for the single image.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.attacks.base import GradientAttack
from qpatchbench.attacks.universal import UniversalAttack
from qpatchbench.ops.crafting.loops import per_image_patches
from qpatchbench.ops.crafting.losses import logit_difference
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.types import CraftTask, Patch, Placement


class Lavan(UniversalAttack):
    """Universal noise: one patch per goal, optimised over images and locations."""

    version: ClassVar[int] = 2
    second: ClassVar[str] = "qpatchbench.testing.reference_attacks:PlainLavan"

    def objective(self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """z_label - z_target; the margin over the best other class when untargeted."""
        return logit_difference(logits, labels, targets)

    def place(self, count: int, image_size: tuple[int, int], generator: torch.Generator) -> Placement:
        """Uniform location, upright, at native size."""
        side = self.size.side(image_size[0])
        return sample_placement(count, image_size, (side, side), generator)


class LavanPerImage(GradientAttack):
    """Noise for one image at a known place."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    learns: ClassVar[bool] = False

    steps: int = Field(default=300, gt=0, description="optimisation steps; every one is taken")
    step_size: float = Field(default=0.05, gt=0, le=1, description="largest change of a pixel per step")

    def craft(self, task: CraftTask) -> Patch:
        """One texture per goal and image, for the given placements."""

        def normalised_step(textures: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
            largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
            return textures - self.step_size * gradient / largest

        side = self.size.side(task.images.side)
        return per_image_patches(task, side=side, objective=logit_difference, update=normalised_step, steps=self.steps)
