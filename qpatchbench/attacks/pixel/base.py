"""Base of pixel attacks: every pixel of one image is changed, each by at most epsilon (L_inf).

They are no patches; studies of patches set them beside the patches for contrast, as attacks of small changes
everywhere instead of large ones in one place. Here their "patch" is the whole adversarial image, laid over the clean
one, so that the harness rounds, pastes and counts it as it does any other.

Images that reach a network have 8 bits, hence a change has whole levels: of the published 0.015 and 0.03 there remain
3 and 7 levels (0.0118 and 0.0275); 8/255 is 8 exactly.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from qpatchbench.attacks.base import GradientAttack
from qpatchbench.ops.crafting.pixel_attacks import LEVELS, whole_levels
from qpatchbench.types import Size

WHOLE = Size(percent=100)


class PixelAttack(GradientAttack):
    """An adversarial image for each attacked image."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    learns: ClassVar[bool] = False
    covers: ClassVar[Literal["square", "image"]] = "image"

    size: Size = Field(default=WHOLE, description="always 100%: the whole image")
    targets: Literal["all", "untargeted"] | tuple[int, ...] = Field(
        default="untargeted", description="untargeted, or classes to steer towards: all, or a list of class ids"
    )
    epsilon: float = Field(
        default=8 / 255,
        ge=0,
        le=1,
        description="largest change of a pixel (8/255, the usual one for CIFAR-10; studies of quantized networks: "
        "0.015 and 0.03)",
        json_schema_extra={"unit": "of the pixel range [0, 1]"},
    )

    @field_validator("size")
    @classmethod
    def _whole_image(cls, size: Size) -> Size:
        if size != WHOLE:
            raise ValueError(f"a pixel attack covers the whole image: expected 100%, found {size}; leave size out")
        return size

    @field_validator("epsilon")
    @classmethod
    def _a_level_at_least(cls, epsilon: float) -> float:
        if epsilon and not whole_levels(epsilon):
            raise ValueError(
                f"expected 0 or at least 1/{LEVELS} = {1 / LEVELS:.4g}, the smallest change that an 8-bit image can "
                f"hold, found {epsilon:g}"
            )
        return epsilon
