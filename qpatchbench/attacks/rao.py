"""Patches optimised in texture and place (Rao, Stutz, Schiele 2020, arXiv 2005.02313).

Per image, the log-probability of the label is minimised (untargeted, as in the paper) or that of a target maximised,
by steps along the sign of the gradient from random noise; after each step the patch may move by `stride` pixels with
its content: `full` tries all four directions, `random` one of them, `fixed` none (the paper's AP-FullLO, AP-RandLO
and AP-Rand). The best iterate is kept.

100 steps of 0.05 with a stride of 2 are the authors' values for evaluation. Deviations:
- patches start where the suite placed them, so that attacks can be compared on pairs, and may reach the last row and
  column, which the authors' range leaves out;
- content moves with its patch, which their code intends but does not do, and a move is compared with staying, at the
  same content;
- iterates are judged at 8 bits, success before loss; no image is attacked more than once (they take the best of 30);
- the authors exclude the central 10 x 10 pixels of CIFAR images, here nothing is excluded unless asked for. A patch
  that the suite placed on the excluded box starts at a random allowed place.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator

from qpatchbench.attacks.base import GradientAttack
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.judgement import Judgement
from qpatchbench.ops.crafting.losses import cross_entropy, goal_classes
from qpatchbench.ops.crafting.moving_patches import Moved, Moves, moving_patches
from qpatchbench.ops.patches.locating import Box, allowed_places, beside_the_box
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.types import CraftTask, Patch, Placement

DIRECTIONS = {"fixed": 0, "random": 1, "full": 4}


class Rao(GradientAttack):
    """One patch per image, optimised in texture and place."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"

    steps: int = Field(default=100, gt=0, description="optimisation steps; every one is taken")
    step_size: float = Field(default=0.05, gt=0, le=1, description="change of a pixel per step")
    location: Literal["fixed", "random", "full"] = Field(
        default="full", description="directions tried after each step: none, a random one, or all four"
    )
    stride: int = Field(default=2, ge=0, description="length of a move", json_schema_extra={"unit": "pixels"})
    excluded: tuple[int, int, int, int] | None = Field(
        default=None,
        description="row, column, height and width of a box that the patch may not touch, in pixels; "
        "the authors' for CIFAR is [11, 11, 10, 10]",
    )

    @field_validator("excluded")
    @classmethod
    def _a_box(cls, excluded: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if excluded is not None and (min(excluded[:2]) < 0 or min(excluded[2:]) < 1):
            raise ValueError(f"expected row, column >= 0 and height, width >= 1, found {list(excluded)}")
        return excluded

    def passes(self) -> float:
        """Forward passes per image and goal, a backward pass counted as two."""
        tried = DIRECTIONS[self.location] if self.stride else 0
        return float(self.steps * (3 + (tried + 1 if tried else 0)) + 3)

    def craft(self, task: CraftTask) -> Patch:
        """One texture per goal and image, and where it lies."""
        return loops.goal_by_goal(task, self._for_one_goal)

    def _for_one_goal(self, task: CraftTask) -> Patch:
        images, given = task.require_places()
        side, device = self.size.side(images.side), images.pixels.device
        box = None if self.excluded is None else Box(*self.excluded)
        allowed = allowed_places((images.side, images.side), (side, side), box).to(device)
        draws = ImageDraws.of(len(images), task.generator, device)
        start = beside_the_box(given.to(device), allowed, draws)
        parts: list[Moved] = []
        for part in loops.image_parts(len(images), images.side):
            labels = images.labels[part]
            own = draws.chosen(torch.arange(part.start, part.stop, device=device))

            def report(step: int, losses: torch.Tensor, best: Judgement, part: slice = part) -> None:
                done = (part.start + step / self.steps * (part.stop - part.start)) / len(images)
                asr = 100 * float(best.success.float().mean())
                task.progress(done, {"loss": float(losses.mean()), "asr": asr})

            parts.append(
                moving_patches(
                    task.network,
                    cross_entropy,
                    to_float(images.pixels[part]),
                    labels,
                    goal_classes(task.goals).to(device).expand(len(labels)),
                    own.uniform(3, side, side),
                    start[part],
                    moves=Moves(allowed, self.stride, DIRECTIONS[self.location]),
                    draws=own,
                    steps=self.steps,
                    step_size=self.step_size,
                    report=report,
                )
            )
        textures = torch.cat([part.textures for part in parts])
        history = torch.cat([part.history for part in parts], dim=1).mean(dim=1)
        return Patch(
            textures,
            torch.ones_like(textures[:, :1]),
            task.goals,
            tuple(history.tolist()),
            placement=Placement.concatenated([part.placement for part in parts]),
        )
