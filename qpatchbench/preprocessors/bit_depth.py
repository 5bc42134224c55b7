"""Bit-depth reduction (Xu, Evans, Qi 2018, Feature squeezing, NDSS, arXiv 1704.01155, section III-A).

    x' = round((2^depth - 1) x) / (2^depth - 1)

Its gradient is zero almost everywhere, so attacks follow the identity in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field

from qpatchbench.preprocessors.base import Preprocessor


class BitDepth(Preprocessor):
    """Rounds every colour to fewer levels."""

    differentiable: ClassVar[bool] = False

    depth: int = Field(default=5, ge=1, le=8, description="bits per colour; the paper's choice for CIFAR-10 is 5")

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the nearest of 2^depth levels; nothing is learnt or drawn."""
        steps = 2**self.depth - 1
        rounded: torch.Tensor = (images * steps).round() / steps
        return rounded
