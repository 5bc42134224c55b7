"""Segment and Complete, SAC (Liu, Levine, Lau, Chellappa, Feizi 2022, CVPR, arXiv 2112.04532).

1. A U-Net says of every pixel whether it belongs to a patch.
2. What it found is completed to squares that are close to it in Hamming distance.
3. The squares are painted black.

The U-Net is trained on images with squares of noise, and then on such that hide from it (self adversarial training).
Own choices: the paper trains first on patches made against an object detector, which a preprocessor does not know; its
authors' U-Net has 64 channels and one more level, sees 500 pixels where ours sees at most 64, and learns by RMSprop.
What was found and is in no square is painted too, as with the authors' option `union`.

Masks are hard. Attacks follow the straight-through gradient of the U-Net's probabilities, as the authors' adaptive one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.types import Announced

Share = Annotated[float, Field(gt=0, le=1)]
_SEEN = 64  # pixels, the largest side that the U-Net is shown


class SegmentAndComplete(Preprocessor):
    """Finds patches by a trained U-Net, completes them to squares, and paints them black."""

    learns_from: ClassVar[Literal["calibration", "train"]] = "train"
    trial: ClassVar[Mapping[str, Any]] = {"steps": 4, "attack_steps": 1, "channels": 4}

    channels: int = Field(default=16, ge=1, description="of the U-Net's first level")
    steps: int = Field(default=500, ge=1, description="of its training, in batches of 32")
    adversarial: float = Field(default=0.5, ge=0, le=1, description="share of them that are self adversarial")
    attack_steps: int = Field(default=10, ge=0, description="of the attack on the U-Net in each of those")
    attack_step_size: float = Field(default=0.1, gt=0, le=1, description="change of a pixel per step of that attack")
    learning_rate: float = Field(default=1e-3, gt=0, description="of its training, by Adam")
    complete: bool = Field(default=True, description="whether masks are completed to squares; else they stay as found")
    sides: tuple[Share, ...] = Field(
        default=(0.25, 0.2, 0.15, 0.1, 0.05),
        min_length=1,
        description="sides of the squares that masks are completed to, as shares of the image's",
    )

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """Squares of at least two pixels: one pixel is no shape."""
        if self.complete and not self._sides(known.side):
            yield "sides", f"expected one of at least 2 of the image's {known.side} pixels, found {max(self.sides):g}"

    def fit(self, calibration: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """The U-Net's weights."""
        from qpatchbench.ops.training.patch_segmenter import SegmenterTraining, segmenter_trained_on

        training = SegmenterTraining(
            self.channels, self.steps, self.adversarial, self.attack_steps, self.attack_step_size, self.learning_rate
        )
        return segmenter_trained_on(_seen(calibration), training)

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the same, black where a patch is suspected; nothing is drawn."""
        probabilities = self.probabilities(images, state)
        found = self.suspect(probabilities).to(images)
        # Hard in value, and with the gradient of the probabilities.
        return images * (1 - found - (probabilities - probabilities.detach()))[:, None]

    def probabilities(self, images: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images (B, 3, H, W) -> (B, H, W) in (0, 1): of every pixel, that it belongs to a patch."""
        from qpatchbench.ops.training.patch_segmenter import patch_logits

        small = torch.sigmoid(patch_logits(_seen(images), state))
        if small.shape[-2:] == images.shape[-2:]:
            return small
        return torch.nn.functional.interpolate(small[:, None], images.shape[-2:], mode="bilinear")[:, 0]

    def suspect(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Probabilities (B, H, W) -> (B, H, W) bool: what is taken for a patch."""
        from qpatchbench.ops.maps.shape_completion import completed_squares

        raw = probabilities.detach() > 0.5
        return raw | completed_squares(raw, self._sides(raw.shape[-1])) if self.complete else raw

    def _sides(self, image: int) -> tuple[int, ...]:
        return tuple(side for share in self.sides if (side := round(share * image)) >= 2)


def _seen(images: torch.Tensor) -> torch.Tensor:
    """What the U-Net is shown, (B, 3, H, W) with at most 64 pixels a side."""
    if images.shape[-1] <= _SEEN:
        return images
    return torch.nn.functional.interpolate(images, (_SEEN, _SEEN), mode="bilinear", antialias=True)
