"""Controls, patches that are not optimised: occlusion, not an attack."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.types import CraftTask, Patch


class _Control(Attack):
    access: ClassVar[Literal["gradient", "scores", "none"]] = "none"
    expected_failures: ClassVar[Mapping[str, str]] = {"a_source_is_named": "a control; there is nothing to cite"}

    @abstractmethod
    def _texture(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """What fills the square."""

    def craft(self, task: CraftTask) -> Patch:
        """Fill one square per goal; neither the network nor the images' content is looked at."""
        side, count = self.size.side(task.images.side), len(task.goals)
        return Patch(
            self._texture((count, 3, side, side), task.generator), torch.ones(count, 1, side, side), task.goals
        )


class Random(_Control):
    """Independent uniform noise in every pixel and channel."""

    def _texture(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return torch.rand(shape, generator=generator)


class Grey(_Control):
    """Mid grey, 0.5 in every pixel and channel."""

    expected_failures: ClassVar[Mapping[str, str]] = {
        **_Control.expected_failures,
        "another_seed_gives_another_patch": "it is one constant",
    }

    def _texture(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return torch.full(shape, 0.5)
