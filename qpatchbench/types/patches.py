"""A patch as an attack returns it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from qpatchbench.types.goals import Goal
from qpatchbench.types.placements import Placement


@dataclass(frozen=True)
class Stage:
    """One of the attacks that a compound attack runs in turn, each on the images that are still unbroken.

    Attributes:
        attack: its name.
        access: what it may see of the network.
        attacked, broken: numbers of images, over all goals; images that were wrong when clean are not attacked.
    """

    attack: str
    access: str
    attacked: int
    broken: int


@dataclass(frozen=True)
class Patch:
    """What an attack returns.

    Attributes:
        textures: (P, 3, h, w) float32 in [0, 1].
        masks: (P, 1, h, w) float32 in {0, 1}.
        goals: one per texture of a universal patch. A per-image patch holds, goal after goal, one texture
            per image, so that P = len(goals) * N.
        history: mean loss per recorded step; the last entry belongs to the last step.
        placement: P places, of a per-image attack that chooses where its patches lie; None: where it was told to.
        queries: (P,) int64, images a score-based attack showed to the network until it first succeeded, or in all
            where it never did; None where queries are no cost.
        stages: what each part of a compound attack did.
        attacked: (P,) bool, of a per-image attack that leaves an image alone where its source is wrong without a patch;
            what it holds for such an image is not counted on any target. None: all are attacked.
    """

    textures: torch.Tensor
    masks: torch.Tensor
    goals: tuple[Goal, ...]
    history: tuple[float, ...] = ()
    placement: Placement | None = None
    queries: torch.Tensor | None = None
    stages: tuple[Stage, ...] = ()
    attacked: torch.Tensor | None = None

    def to(self, device: torch.device) -> Patch:
        """Copy textures and masks, and places if there are any, to `device`."""
        placement = None if self.placement is None else self.placement.to(device)
        return replace(self, textures=self.textures.to(device), masks=self.masks.to(device), placement=placement)

    @property
    def height(self) -> int:
        """Rows of the patch, pixels."""
        return int(self.textures.shape[-2])

    @property
    def width(self) -> int:
        """Columns of the patch, pixels."""
        return int(self.textures.shape[-1])

    def for_goal(self, index: int) -> Patch:
        """The textures of one goal: one (universal), or one per image."""
        size = len(self.textures) // len(self.goals)
        part = slice(index * size, (index + 1) * size)
        return Patch(
            self.textures[part],
            self.masks[part],
            (self.goals[index],),
            placement=None if self.placement is None else self.placement[part],
            queries=None if self.queries is None else self.queries[part],
            attacked=None if self.attacked is None else self.attacked[part],
        )
