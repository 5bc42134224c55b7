"""Networks for small images: ResNet-20/32/44/56, VGG-16/19, AlexNet."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator

from qpatchbench.models.base import ModelSource, Preprocessing

Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class CifarModel(ModelSource):
    """An architecture for images of 8 to 64 pixels that works at the dataset's own size."""

    name: Literal["alexnet", "resnet20", "resnet32", "resnet44", "resnet56", "vgg16", "vgg19"] = Field(
        description="architecture"
    )
    width: int = Field(
        default=1,
        ge=1,
        le=16,
        exclude_if=lambda width: width == 1,  # keys of before it could be chosen stay
        description="channels of a ResNet relative to its paper's, as in wide residual networks (Zagoruyko, Komodakis "
        "2016, arXiv 1605.07146)",
    )
    mean: tuple[Mean, Mean, Mean] = Field(
        default=(0.4914, 0.4822, 0.4465),
        description="subtracted per channel from pixels in [0, 1]; default: CIFAR-10's training images",
    )
    std: tuple[Deviation, Deviation, Deviation] = Field(
        default=(0.2470, 0.2435, 0.2616),
        description="divides per channel after the mean is subtracted; default: CIFAR-10's training images",
    )

    @field_validator("width")
    @classmethod
    def _widened(cls, width: int, info: ValidationInfo) -> int:
        name = str(info.data.get("name", ""))
        if width > 1 and name and _family(name) != "resnet":
            raise ValueError(f"expected 1 for {name}, found {width}: only ResNets come in several widths")
        return width

    def preprocessing(self, image_size: int) -> Preprocessing:
        """No resizing; image files, if the dataset has any, are cropped in the customary way."""
        return Preprocessing(image_size, 0.875, "bilinear", self.mean, self.std)

    def build(self, num_classes: int, image_size: int) -> torch.nn.Module:
        """A fresh float network: images (B, 3, image_size, image_size) in [0, 1] -> logits (B, num_classes).

        Initial weights come from torch's global generator.
        """
        from qpatchbench.models.classifier import ImageClassifier

        return ImageClassifier(_backbone(self.name, self.width, num_classes), self.mean, self.std, image_size)


def _family(name: str) -> str:
    return name.rstrip("0123456789")


def _backbone(name: str, width: int, num_classes: int) -> torch.nn.Module:
    from qpatchbench.models.alexnet_cifar import CifarAlexNet
    from qpatchbench.models.resnet_cifar import CifarResNet
    from qpatchbench.models.vgg_cifar import CifarVgg

    depth = name.lstrip("abcdefghijklmnopqrstuvwxyz")
    match _family(name):
        case "resnet":
            return CifarResNet(int(depth), num_classes, width)
        case "vgg":
            return CifarVgg(int(depth), num_classes)
    return CifarAlexNet(num_classes)
