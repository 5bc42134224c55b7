"""What a preprocessor is: a defense that changes the images a deployed network is about to see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

from qpatchbench.component import Component


class Preprocessor(Component, ABC):
    """Maps images to images before the network sees them. It stores nothing: what it learns is its state.

    Attributes:
        differentiable: whether its own gradient is useful to an attack. Where it is not, attacks follow the gradient
            of the identity in its place: backward pass differentiable approximation (Athalye et al. 2018, Obfuscated
            gradients give a false sense of security, arXiv 1802.00420, section 4.1).
        randomized: whether it draws from the generator it is given. Attacks then see the average of many draws.
    """

    differentiable: ClassVar[bool] = True
    randomized: ClassVar[bool] = False

    @property
    def learns(self) -> bool:
        """Whether calibration images decide what it does."""
        return type(self).fit is not Preprocessor.fit

    def fit(self, calibration: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """What it learns before it is used: tensors by name, which `apply` is given. By default nothing.

        Args:
            calibration: (N, 3, H, W) float32 in [0, 1], held out from training and evaluation.
        """
        return {}

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
