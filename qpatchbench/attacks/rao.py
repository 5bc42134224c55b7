"""Patches optimised in texture and place (Rao, Stutz, Schiele 2020, arXiv 2005.02313).

Per image, the log-probability of the label is minimised (untargeted, as in the paper) or that of a target maximised,
by steps along the sign of the gradient from random noise; after each step the patch may move by `stride` pixels with
its content: `full` tries all four directions, `random` one of them, `fixed` none (the paper's AP-FullLO, AP-RandLO
and AP-Rand). The best iterate is kept.

30 starts, 100 steps of 0.05 and a stride of 2 are the authors' values for evaluation. Deviations:
- the first start lies where the suite placed the patch, so that attacks can be compared on pairs; the others lie at
  random, as all of theirs do, and may reach the last row and column, which the authors' range leaves out;
- content moves with its patch, which their code intends but does not do, and a move is compared with staying, at the
  same content;
- iterates are judged at 8 bits, success before loss, and an image is attacked again only while no start has succeeded;
  the authors run every start and keep the lowest loss;
- the authors exclude the central 10 x 10 pixels of CIFAR images, here nothing is excluded unless asked for. A patch
  that the suite placed on the excluded box starts at a random allowed place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from qpatchbench.attacks.base import GradientAttack
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.judgement import Found, Judgement
from qpatchbench.ops.crafting.losses import cross_entropy, goal_classes
from qpatchbench.ops.crafting.moving_patches import Moves, moving_patches
from qpatchbench.ops.patches.locating import Box, allowed_places, beside_the_box, box_misfits, random_places
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import ImageDraws, forked
from qpatchbench.types import Announced, CraftTask, Patch, Placement

DIRECTIONS = {"fixed": 0, "random": 1, "full": 4}


class Rao(GradientAttack):
    """One patch per image, optimised in texture and place; the best of several starts."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    version: ClassVar[int] = 2
    trial: ClassVar[Mapping[str, Any]] = {"restarts": 2}

    steps: int = Field(default=100, gt=0, description="optimisation steps; every one is taken")
    step_size: float = Field(default=0.05, gt=0, le=1, description="change of a pixel per step")
    restarts: int = Field(default=30, gt=0, description="starts per image, as long as none has succeeded")
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

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """The box leaves no room."""
        yield from box_misfits(self.size.side(known.side), known.side, self.excluded)

    def passes(self) -> float:
        """Forward passes per image and goal if no start succeeds, a backward pass counted as two."""
        tried = DIRECTIONS[self.location] if self.stride else 0
        return float(self.restarts * (self.steps * (3 + (tried + 1 if tried else 0)) + 3))

    def craft(self, task: CraftTask) -> Patch:
        """One texture per goal and image, and where it lies."""
        return loops.goal_by_goal(task, self._for_one_goal)

    def _for_one_goal(self, task: CraftTask) -> Patch:
        images, _ = task.require_places()
        device = images.pixels.device
        # A stream for each start: more of them leave the draws of the others as they are.
        streams = [ImageDraws.for_task(task, forked(task.generator)) for _ in range(self.restarts)]
        parts, history = [], torch.zeros(self.steps, device=device)
        for part in loops.image_parts(len(images), images.side):
            index = torch.arange(part.start, part.stop, device=device)
            found, losses = self._on_batch(task, part, [stream.chosen(index) for stream in streams])
            parts.append(found)
            history += losses.sum(dim=1) / len(images)
        textures = torch.cat([part.textures for part in parts])
        return Patch(
            textures,
            torch.ones_like(textures[:, :1]),
            task.goals,
            tuple(history.tolist()),
            placement=Placement.concatenated([part.placement for part in parts]),
        )

    def _on_batch(self, task: CraftTask, part: slice, streams: list[ImageDraws]) -> tuple[Found, torch.Tensor]:
        """What was found for some images, and their losses (steps, B) in the first run."""
        every, given = task.require_places()
        images, labels = to_float(every.pixels[part]), every.labels[part]
        count, side, device = len(labels), self.size.side(every.side), labels.device
        targets = goal_classes(task.goals).to(device).expand(count)
        box = None if self.excluded is None else Box(*self.excluded)
        allowed = allowed_places((every.side, every.side), (side, side), box).to(device)
        moves = Moves(allowed, self.stride, DIRECTIONS[self.location])
        nothing, places = torch.zeros(count, 3, side, side, device=device), given[part].to(device)
        found, history = Found(nothing, places, Judgement.worst(count, device)), torch.empty(0)
        for number, stream in enumerate(streams):
            unbroken = (~found.judgement.success).nonzero().flatten()
            if not len(unbroken):
                break
            draws = stream.chosen(unbroken)
            start = random_places(allowed, draws) if number else beside_the_box(places, allowed, draws)

            def report(step: int, losses: torch.Tensor, best: Judgement, number: int = number) -> None:
                done = (number + step / self.steps) / len(streams)
                broken = count - int((~best.success).sum())  # images broken by earlier starts take no part in this one
                figures = {"loss": float(losses.mean()), task.success_name: 100 * broken / count}
                task.progress((part.start + done * count) / len(every), figures)

            run = moving_patches(
                task.network, cross_entropy, images[unbroken], labels[unbroken], targets[unbroken],
                draws.uniform(3, side, side), start,
                moves=moves, draws=draws, steps=self.steps, step_size=self.step_size, report=report,
            )  # fmt: skip
            found = found.joined(unbroken, Found(run.textures, run.placement, run.judgement))
            history = history if number else run.history
        return found, history
