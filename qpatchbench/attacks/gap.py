"""GAP, the universal adversarial patch (Brown, Mane, Roy, Abadi, Gilmer 2017, arXiv 1712.09665).

Section 2: p* = argmax_p E_{x, t, l} log P(target | A(p, x, l, t)), an expectation over images x, locations l and
transformations t (rotation and scale). One location and one transformation are drawn per image and step, which
estimates the expectation without bias. The patch is an upright square of fixed size, as in the studies of quantized
networks and as suites measure it; the paper's circle and its ranges of rotation and scale serve printed patches seen
from anywhere. `rotation: 22.5` is that of the authors' notebook; a patch that is measured upright pays for rotations
that it never meets.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, field_validator

from qpatchbench.attacks.universal import UniversalAttack
from qpatchbench.ops.crafting.losses import cross_entropy
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.types import Placement


class Gap(UniversalAttack):
    """Universal patch by expectation over transformation."""

    version: ClassVar[int] = 3
    second: ClassVar[str] = "qpatchbench.testing.reference_attacks:PlainGap"

    rotation: float = Field(
        default=0.0,
        ge=0,
        le=180,
        description="largest rotation while crafting; 0, as suites measure patches (22.5 in the authors' notebook)",
        json_schema_extra={"unit": "degrees"},
    )
    scale: tuple[float, float] = Field(default=(1.0, 1.0), description="smallest and largest scale while crafting")

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 4:
            raise ValueError(f"expected 0 < smallest <= largest <= 4, found {list(scale)}")
        return scale

    def objective(self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """-log P(target); log P(label) when untargeted."""
        return cross_entropy(logits, labels, targets)

    def place(self, count: int, image_size: tuple[int, int], generator: torch.Generator) -> Placement:
        """Uniform location, rotation and scale."""
        side = self.size.side(image_size[0])
        return sample_placement(count, image_size, (side, side), generator, rotation=self.rotation, scale=self.scale)
