"""The contract of preprocessors: a defense that changes the images a deployed network is about to see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch

from qpatchbench.component import Component
from qpatchbench.types import Announced, Network

DRAWS = 20  # of a randomised preprocessor, for every answer that an attack averages over


class Preprocessor(Component, ABC):
    """Maps images to images before the network sees them. It stores nothing: what it learns is its state.

    One that asks the network several times overrides `answer`, and one that proves something overrides `certified_side`
    and `certified`.

    Attributes:
        differentiable: whether its own gradient is useful to an attack. Where it is not, attacks follow the gradient
            of the identity in its place: backward pass differentiable approximation (Athalye et al. 2018, Obfuscated
            gradients give a false sense of security, arXiv 1802.00420, section 4.1).
        randomized: whether it draws from the generator it is given. Attacks then see the average of many draws.
        learns_from: which images `fit` is given: those held out for calibration, or training images, which are more.
    """

    differentiable: ClassVar[bool] = True
    randomized: ClassVar[bool] = False
    learns_from: ClassVar[Literal["calibration", "train"]] = "calibration"

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """There is nothing to learn from."""
        if self.learns and self.learns_from == "calibration" and not known.calibration:
            yield (
                "",
                f"{self.title} learns from images held out: expected calibration_images of the dataset of at least 1, "
                "found 0",
            )

    @property
    def learns(self) -> bool:
        """Whether images decide what it does."""
        return type(self).fit is not Preprocessor.fit

    def fit(self, calibration: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """What it learns before it is used: tensors by name, which `apply` is given. By default nothing.

        A suite does this once for the same images and fields, and keeps the result beside its checkpoints.

        Args:
            calibration: (N, 3, H, W) float32 in [0, 1], never those of the evaluation; see `learns_from`.
        """
        return {}

    @property
    def answers_at_once(self) -> int:
        """Answers of the network to one image whose graphs an attack's gradient needs together."""
        return DRAWS if self.randomized else 1

    @abstractmethod
    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """The images that the network sees. Each is treated by itself: another batch gives it the same.

        Args:
            images: (B, 3, H, W) float32 in [0, 1]; not changed.
            state: what `fit` returned, on the device of the images.
            generator: CPU generator, the only source of randomness; drawn from image after image, so that how images
                are batched changes nothing.

        Returns:
            (B, 3, H, W) float32 in [0, 1].
        """

    def answer(self, network: Network, images: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What is answered to preprocessed images, logits (B, K): by default what the network answers to them once."""
        return network(images)

    def certified_side(self, image_side: int) -> int | None:
        """Side of the largest square patch that its certificates hold against, pixels; None: it gives none."""
        return None

    def certified(
        self, network: Network, images: torch.Tensor, labels: torch.Tensor, state: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Which images no such patch, upright and wholly inside the image, can turn from their label; (B,) bool.

        Args:
            network: the one behind it, which answers without drawing.
            images: (B, 3, H, W) float32 in [0, 1], clean.
            labels: (B,) int64.
            state: what `fit` returned, on the device of the images.
        """
        return torch.zeros(len(images), dtype=torch.bool, device=images.device)
