"""Controls: patches that are not optimised. What they do to a network is occlusion, not an attack."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.types import Goal, ImageSet, Network, Patch, Placement, Progress, silent


class _Control(Attack):
    access: ClassVar[Literal["gradient", "scores", "none"]] = "none"

    @abstractmethod
    def _texture(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """What fills the square."""

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
        """Fill one square per goal; neither the network nor the images are looked at."""
        textures = self._texture((len(goals), 3, self.size, self.size), generator)
        return Patch(textures, torch.ones(len(goals), 1, self.size, self.size), goals)


class Random(_Control):
    """Independent uniform noise in every pixel and channel."""

    def _texture(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return torch.rand(shape, generator=generator)


class Grey(_Control):
    """Mid grey, 0.5 in every pixel and channel."""

    def _texture(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return torch.full(shape, 0.5)
