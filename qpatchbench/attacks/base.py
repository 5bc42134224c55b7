"""What an attack is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.component import Component
from qpatchbench.types import (
    Goal,
    ImageSet,
    Network,
    Patch,
    Placement,
    Progress,
    Targeted,
    Untargeted,
    silent,
)


class Attack(Component, ABC):
    """Makes a patch from a source network and images. It returns the patch; the harness measures it."""

    kind: ClassVar[Literal["universal", "per_image"]] = "universal"
    access: ClassVar[Literal["gradient", "scores", "none"]] = "gradient"

    size: int = Field(gt=0, description="side of the square patch", json_schema_extra={"unit": "pixels"})
    targets: Literal["all", "untargeted"] | tuple[int, ...] = Field(
        default="all", description="classes to steer towards: all, a list of class ids, or untargeted"
    )

    def goals(self, num_classes: int) -> tuple[Goal, ...]:
        """The goals that `targets` names, one patch each."""
        if self.targets == "untargeted":
            return (Untargeted(),)
        classes = range(num_classes) if self.targets == "all" else self.targets
        return tuple(Targeted(class_id) for class_id in classes)

    @abstractmethod
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
        """Craft one texture per goal (universal) or per goal and image (per_image).

        Args:
            network: frozen source; images (B, 3, H, W) float32 in [0, 1] -> logits (B, K).
            images: crafting images (universal), or the images to attack (per_image).
            goals: what the patches shall achieve; all are crafted in one batched loop.
            placement: where a per-image patch will lie on its image; None for universal patches,
                which are crafted for every location.
            generator: the only source of randomness.
            progress: told the fraction done and current figures.
        """
