"""What a model source is, and the wrapper that keeps preprocessing inside the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field

from qpatchbench.component import Component


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images.

    Attributes:
        image_size: side its backbone expects, pixels.
        crop_fraction: share of the shorter side that the centre crop keeps when an image file is decoded.
        interpolation: "bilinear" or "bicubic".
        mean, std: per channel, for pixels in [0, 1].
    """

    image_size: int
    crop_fraction: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


class ModelSource(Component, ABC):
    """An architecture and where its weights come from."""

    image_model: ClassVar[bool] = False  # True: images are decoded with the model's own crop

    weights: str = Field(
        default="train",
        description="train (by the suite), pretrained (timm's), a file (.safetensors, or .pt/.pth read with "
        "weights_only), or package:NAME/FILE for a file that an installed package carries",
    )

    @abstractmethod
    def preprocessing(self, image_size: int) -> Preprocessing:
        """The model's own preprocessing, for a dataset whose images are `image_size` pixels wide."""

    @abstractmethod
    def build(self, num_classes: int, image_size: int) -> torch.nn.Module:
        """A fresh float network: images (B, 3, image_size, image_size) in [0, 1] -> logits (B, num_classes).

        Preprocessing is inside. Initial weights come from torch's global generator, which the caller seeds
        in a fork.
        """
