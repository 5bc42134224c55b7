"""The task that an attack is given, and the telling of its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from qpatchbench.types.answers import Network
from qpatchbench.types.goals import Goal, Targeted
from qpatchbench.types.images import ImageSet
from qpatchbench.types.placements import Placement

# Told how far a long computation is (0..1) and the figures worth showing, for example {"loss": 0.3}.
Progress: TypeAlias = Callable[[float, Mapping[str, float]], None]


def silent(fraction: float, figures: Mapping[str, float]) -> None:
    """A `Progress` that tells nobody."""


@dataclass(frozen=True)
class CraftTask:
    """What an attack is asked for.

    Attributes:
        networks: frozen sources, each images (B, 3, H, W) float32 in [0, 1] -> logits (B, K). One, except for an
            attack that takes several.
        goals: what the patches shall achieve.
        crafting: images to learn from, never those that the patch is measured on.
        generator: CPU generator, the only source of randomness.
        siblings: the same backbone at the other bit-widths, for an attack that wants them.
        attacked: the images that a per-image patch is for; None for a universal one.
        placement: where a per-image patch lies unless its attack chooses; None for a universal one, which is crafted
            for every place.
        seeds: (N,) int64, one per attacked image, where a compound attack hands on some of its images; else None.
        progress: told the fraction done and current figures.
    """

    networks: tuple[Network, ...]
    goals: tuple[Goal, ...]
    crafting: ImageSet
    generator: torch.Generator
    siblings: tuple[Network, ...] = ()
    attacked: ImageSet | None = None
    placement: Placement | None = None
    seeds: torch.Tensor | None = None
    progress: Progress = silent

    @property
    def network(self) -> Network:
        """The only network."""
        if len(self.networks) != 1:
            raise ValueError(f"expected one network to craft on, found {len(self.networks)}")
        return self.networks[0]

    @property
    def images(self) -> ImageSet:
        """The images to work on: those attacked one by one, else those to learn from."""
        return self.crafting if self.attacked is None else self.attacked

    @property
    def goal(self) -> Goal:
        """The only goal."""
        if len(self.goals) != 1:
            raise ValueError(f"expected one goal at a time, found {len(self.goals)}")
        return self.goals[0]

    @property
    def success_name(self) -> str:
        """What a board calls the rate at which the goals are reached: `asr_targeted`, or `asr` of untargeted ones."""
        return "asr_targeted" if any(isinstance(goal, Targeted) for goal in self.goals) else "asr"

    def require_places(self) -> tuple[ImageSet, Placement]:
        """The attacked images and where the patches lie on them.

        Raises:
            ValueError: the task is for a universal patch.
        """
        if self.attacked is None or self.placement is None:
            raise ValueError("expected the images to attack and a placement for each, found a task without them")
        return self.attacked, self.placement

    def part(self, index: int, count: int, **changes: Any) -> CraftTask:  # noqa: ANN401 (fields of a dataclass)
        """The same task with `changes`, reporting as part `index` of `count` equal parts."""

        def overall(fraction: float, figures: Mapping[str, float]) -> None:
            self.progress((index + fraction) / count, figures)

        return replace(self, progress=overall, **changes)
