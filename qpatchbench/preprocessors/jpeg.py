"""JPEG compression (Dziugaite, Ghahramani, Roy 2016, arXiv 1608.00853): the image is stored as JPEG and read again.

A cheap control for every purifier: what only removes high frequencies should beat it before it is called a defense.
The encoder is libjpeg's through Pillow, with its usual halving of the colour's resolution. It has no gradient, and
attacks follow the identity in its place.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from qpatchbench.ops.patches.pasting import to_uint8
from qpatchbench.preprocessors.base import Preprocessor


class Jpeg(Preprocessor):
    """Stores each image as JPEG and reads it again."""

    differentiable: ClassVar[bool] = False

    quality: int = Field(default=75, ge=1, le=95, description="libjpeg's quality; lower removes more")

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the decoded ones, multiples of 1/255; nothing is learnt or drawn."""
        pixels = to_uint8(images.detach()).permute(0, 2, 3, 1).cpu().numpy()
        decoded = np.stack([_stored(image, self.quality) for image in pixels])
        return torch.from_numpy(decoded).to(images.device).permute(0, 3, 1, 2).to(images.dtype) / 255


def _stored(image: np.ndarray, quality: int) -> np.ndarray:
    """(H, W, 3) uint8 -> what a decoder makes of its JPEG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=quality)
    return np.asarray(Image.open(file))
