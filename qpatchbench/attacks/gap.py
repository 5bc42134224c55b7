"""GAP, the universal adversarial patch (Brown, Mane, Roy, Abadi, Gilmer 2017, arXiv 1712.09665).

Section 2: p* = argmax_p E_{x, t, l} log P(target | A(p, x, l, t)), an expectation over images x, locations l and
transformations t (rotation and scale). One location and one transformation are drawn per image and step, which
estimates the expectation without bias. The patch is a square of fixed size, as in the studies of quantized
networks; the paper's circle and its range of scales serve printed patches seen from any distance.
"""

from __future__ import annotations

import torch
from pydantic import Field, field_validator

from qpatchbench.attacks.base import Attack
from qpatchbench.ops.crafting import universal_patches
from qpatchbench.ops.losses import cross_entropy
from qpatchbench.ops.placing import sample_placement
from qpatchbench.types import Goal, ImageSet, Network, Patch, Placement, Progress, silent


class Gap(Attack):
    """Universal patch by expectation over transformation."""

    steps: int = Field(default=1000, gt=0, description="optimisation steps")
    step_size: float = Field(default=0.05, gt=0, description="Adam learning rate")
    batch_size: int = Field(default=64, gt=0, description="images per step, each with every goal's patch")
    rotation: float = Field(
        default=22.5,
        ge=0,
        le=180,
        description="largest rotation while crafting (22.5 in the authors' notebook)",
        json_schema_extra={"unit": "degrees"},
    )
    scale: tuple[float, float] = Field(default=(1.0, 1.0), description="smallest and largest scale while crafting")

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 4:
            raise ValueError(f"expected 0 < smallest <= largest <= 4, found {list(scale)}")
        return scale

    def craft(
        self,
        network: Network,
        images: ImageSet,
        goals: tuple[Goal, ...],
        *,
        placement: Placement | None,
        generator: torch.Generator,
        progress: Progress = silent,
    ) -> Patch:
        """One texture per goal, optimised over random locations, rotations and scales."""
        height, width = images.pixels.shape[-2:]

        def transformed(count: int, draws: torch.Generator) -> Placement:
            patch_size = (self.size, self.size)
            return sample_placement(count, (height, width), patch_size, draws, rotation=self.rotation, scale=self.scale)

        textures, history = universal_patches(
            network,
            images,
            goals,
            size=self.size,
            objective=cross_entropy,
            placer=transformed,
            steps=self.steps,
            step_size=self.step_size,
            batch_size=self.batch_size,
            generator=generator,
            progress=progress,
        )
        return Patch(textures, torch.ones_like(textures[:, :1]), goals, history)
