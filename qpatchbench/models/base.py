"""The contract of a model source: an architecture, its preprocessing and where its weights come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, Field

from qpatchbench.component import Component
from qpatchbench.errors import WeightsError
from qpatchbench.labels import checked_line
from qpatchbench.models.weights import load_weights, weights_fingerprint
from qpatchbench.types import Bits


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images.

    Attributes:
        image_size: side its backbone expects, pixels.
        crop_fraction: share of the resized side that the centre crop keeps when an image file is decoded.
        interpolation: "bilinear", "bicubic" or another of Pillow's filters.
        mean, std: per channel, for pixels in [0, 1].
        crop_mode: which side of an image file is resized: "center" (the shorter one), "squash" (both) or "border" (the
            longer one, between borders of the colour `mean`).
    """

    image_size: int
    crop_fraction: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_mode: str = "center"


@dataclass(frozen=True)
class Ready:
    """What is known of a network that is deployed already, so that nobody here trains or quantizes it.

    Attributes:
        bits: at which it is said to compute.
        runtime: what answers, with the processor that it runs on: "onnxruntime-cpu".
        release: version of that runtime.
        code: whether opening it runs code that the suite names.
        sibling: title of the model of the same suite that it was made from; patches are crafted there. None: no one
            knows it.
    """

    bits: Bits
    runtime: str
    release: str
    sibling: str | None
    code: bool = False


class ModelSource(Component, ABC):
    """An architecture and where its weights come from."""

    image_model: ClassVar[bool] = False  # True: images are decoded with the model's own crop
    files: ClassVar[tuple[str, ...]] = ("weights",)

    weights: Annotated[str, AfterValidator(checked_line)] = Field(
        default="train",
        description="train (by the suite), pretrained (timm's), a file (.safetensors, or .pt/.pth read with "
        "weights_only), or package:NAME/FILE for a file that an installed package carries",
    )

    @property
    def ready(self) -> Ready | None:
        """What is known of it where it is deployed already; None: floats, which the suite trains and quantizes."""
        return None

    def fingerprint(self) -> str:
        """What identifies the weights that it starts from: "" where the suite trains them, else the file's SHA-256.

        Raises:
            WeightsError: they are not there.
        """
        return weights_fingerprint(self.weights)

    @abstractmethod
    def preprocessing(self, image_size: int) -> Preprocessing:
        """The model's own preprocessing, for a dataset whose images are `image_size` pixels wide."""

    @abstractmethod
    def build(self, num_classes: int, image_size: int) -> torch.nn.Module:
        """A fresh float network: images (B, 3, image_size, image_size) in [0, 1] -> logits (B, num_classes).

        Preprocessing is inside. Initial weights come from torch's global generator, which the caller seeds
        in a fork.
        """

    def load(self, num_classes: int, image_size: int) -> torch.nn.Module:
        """`build`, then the weights that `weights` names; in training mode, as `build` returns it.

        Raises:
            WeightsError: the weights are missing, unsafe to read or do not fit.
        """
        network = self.build(num_classes, image_size)
        load_weights(self, network, num_classes)
        return network

    def pretrained_release(self) -> str:
        """Which published weights `weights: pretrained` stands for: library, version, architecture, tag and place.

        Raises:
            WeightsError: there are none.
        """
        raise self._unpublished()

    def require_published(self, num_classes: int) -> None:  # noqa: B027
        """Refuse published weights that answer another number of classes, without fetching them.

        Raises:
            WeightsError: says how many they answer.
        """

    def pretrained_tensors(self, num_classes: int) -> Mapping[str, torch.Tensor]:
        """Published weights of this architecture by name, for `weights: pretrained`.

        Raises:
            WeightsError: there are none, none for `num_classes`, or they cannot be fetched.
        """
        raise self._unpublished()

    def _unpublished(self) -> WeightsError:
        return WeightsError(
            f"model {self.name!r}, weights pretrained: no published weights belong to this architecture. "
            "Expected train, a file, or package:NAME/FILE."
        )
