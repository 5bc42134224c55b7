"""PatchAttack: a policy learns from scores alone where to put which patch, anew for every image.

Yang, Kortylewski, Xie, Cao, Yuille 2020 (arXiv 2004.05682). An LSTM makes five choices one after the other, and is
trained by REINFORCE; the reward of a patch is log P(target), or log(1 - P(label)) when untargeted. Two agents:

    tpa   row and column, a texture of a dictionary, row and column of the square cut out of it
    mpa   row and column, red, green, blue of a square in one colour, 16 levels of each

An image leaves with the first policy step that succeeds. All patches of that step were shown and are counted.

From the authors' code: the policy, Adam at 0.03, rewards standardised over the patches of a step, textures of the
target class only when targeted, and when a policy has converged: its mean reward moves on by a second difference of
less than 1e-4. Deviations, so that numbers compare with those of other attacks: one square of the size that all have,
where the authors add up to ten (tpa) or pay for the area by a penalty (mpa); a converged policy gives way to a fresh
one while queries are left, where theirs gives way to one for a further patch; 10,000 queries (up to 250,000); a
success counts from the first step (theirs from the third on). With so few queries, SAMPLES patches per step (500).
Untargeted, the textures are those of all classes: one drawn at random, as in the authors' tutorial, would make the
outcome a matter of the draw, and the policy can choose. `ops.textures` says how the dictionary differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.attacks.base import Attack
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.loops import goal_by_goal
from qpatchbench.ops.crafting.losses import goal_classes, succeeded
from qpatchbench.ops.crafting.policy_search import FoundBySearch, SearchBudget, policy_search
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.ops.patches.textures import Textures, cut_out, texture_dictionary
from qpatchbench.ops.randomness import ImageDraws, forked
from qpatchbench.types import Announced, CraftTask, Goal, Patch, Targeted

LEVELS = 16  # of a colour channel: multiples of 17/255, from 0 to 1


class PatchAttack(Attack):
    """A policy of its own for every image, trained by the scores of what it tries."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    access: ClassVar[Literal["gradient", "scores", "none"]] = "scores"
    trial: ClassVar[Mapping[str, Any]] = {"texture_steps": 0}

    agent: Literal["tpa", "mpa"] = Field(default="tpa", description="cut from a texture (tpa), or of one colour (mpa)")
    queries: int = Field(default=10_000, gt=0, description="images shown to the network for each attacked image")
    samples: int = Field(default=50, gt=1, description="patches tried per step of a policy")
    step_size: float = Field(default=0.03, gt=0, description="Adam learning rate of a policy")
    textures_per_class: int = Field(
        default=3, gt=0, description="clusters of a class's crafting images; 30 in the paper"
    )
    texture_steps: int = Field(default=100, ge=0, description="steps of the synthesis of textures; 0: they are images")

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """A texture of every target class is cut from crafting images, which come class after class."""
        wanted = {goal for goal in self.goals(known.classes) if isinstance(goal, Targeted)}
        if self.agent == "tpa" and wanted and known.craft < known.classes:
            yield (
                "agent",
                f"expected craft_images of the dataset of at least {known.classes}, one of each class to take textures "
                f"from, found {known.craft}; mpa needs none",
            )

    def craft(self, task: CraftTask) -> Patch:
        """One texture and its place per goal and image."""
        textures = self._dictionary(task, forked(task.generator)) if self.agent == "tpa" else None

        def for_one_goal(one: CraftTask) -> Patch:
            return self._for_one_goal(one, None if textures is None else _usable(textures, one.goal))

        return goal_by_goal(task, for_one_goal)

    def _dictionary(self, task: CraftTask, generator: torch.Generator) -> Textures:
        """Textures of every class that a goal wants."""
        aims = {goal.class_id for goal in task.goals if isinstance(goal, Targeted)}
        untargeted = len(aims) < len(set(task.goals))
        classes = aims | set(task.crafting.labels.tolist()) if untargeted else aims
        return texture_dictionary(
            task.crafting,
            tuple(sorted(classes)),
            per_class=self.textures_per_class,
            steps=self.texture_steps,
            generator=generator,
        )

    def _for_one_goal(self, task: CraftTask, textures: torch.Tensor | None) -> Patch:
        images, _ = task.require_places()
        streams = [ImageDraws.for_task(task, forked(task.generator)) for _ in range(2)]
        budget = SearchBudget(self.queries, self.samples, self.step_size)
        parts: list[FoundBySearch] = []
        for part in loops.image_parts(len(images), images.side):
            index = torch.arange(part.start, part.stop, device=images.pixels.device)
            pixels, labels = to_float(images.pixels[index]), images.labels[index]

            def attempt(
                active: torch.Tensor,
                choices: torch.Tensor,
                pixels: torch.Tensor = pixels,
                labels: torch.Tensor = labels,
            ) -> tuple[torch.Tensor, torch.Tensor]:
                return self._tried(task, textures, pixels[active], labels[active], choices)

            def report(queries: int, loss: float, won: float, first: int = part.start, count: int = len(index)) -> None:
                done = (first + queries / self.queries * count) / len(images)
                task.progress(min(1.0, done), {"loss": loss, task.success_name: 100 * won})

            draws, fresh = (stream.chosen(index) for stream in streams)
            alternatives = self._alternatives(images.side, textures)
            parts.append(policy_search(attempt, alternatives, budget, draws, fresh, report))
        choices = torch.cat([part.choices for part in parts])
        patches = _drawn(choices, textures, self.size.side(images.side))
        history = sum(part.history * len(part.choices) for part in parts) / len(images)
        return Patch(
            patches,
            torch.ones_like(patches[:, :1]),
            task.goals,
            tuple(torch.as_tensor(history).tolist()),
            placement=upright(choices[:, 0], choices[:, 1]),
            queries=torch.cat([part.queries for part in parts]),
        )

    def _alternatives(self, image_side: int, textures: torch.Tensor | None) -> tuple[int, ...]:
        """How many there are for each choice."""
        side = self.size.side(image_side)
        places = image_side - side + 1
        if textures is None:
            return (places, places, LEVELS, LEVELS, LEVELS)
        return (places, places, len(textures), *(length - side + 1 for length in textures.shape[2:]))

    def _tried(
        self,
        task: CraftTask,
        textures: torch.Tensor | None,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        choices: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses and success (B, S) of the patches that choices (B, S, 5) stand for."""
        losses, won = list[torch.Tensor](), list[torch.Tensor]()
        # Patches per image in one pass of the network.
        together = max(1, loops.images_at_once(pixels.shape[-1]) // len(pixels))
        for part in torch.split(choices, together, dim=1):
            shown, answers = pixels.repeat_interleave(part.shape[1], 0), labels.repeat_interleave(part.shape[1])
            flat = part.flatten(0, 1)
            patches = _drawn(flat, textures, self.size.side(pixels.shape[-1]))
            logits = task.network(
                paste(shown, patches, torch.ones_like(patches[:1, :1]), upright(flat[:, 0], flat[:, 1]))
            )
            targets = goal_classes(task.goals).to(labels.device).expand(len(answers))
            losses.append(_loss(logits.float(), answers, targets).view(len(pixels), -1))
            won.append(succeeded(logits, answers, targets).view(len(pixels), -1))
        return torch.cat(losses, dim=1), torch.cat(won, dim=1)


def _usable(textures: Textures, goal: Goal) -> torch.Tensor:
    """Those of the target class, or all."""
    return textures.pixels[textures.classes == goal.class_id] if isinstance(goal, Targeted) else textures.pixels


def _drawn(choices: torch.Tensor, textures: torch.Tensor | None, side: int) -> torch.Tensor:
    """Choices (M, 5) -> patches (M, 3, side, side) on the 8-bit grid."""
    if textures is None:
        colours = (choices[:, 2:] * (255 // (LEVELS - 1))).float() / 255
        return colours[:, :, None, None].expand(-1, -1, side, side).contiguous()
    return cut_out(textures, choices[:, 2], choices[:, 3], choices[:, 4], side)


def _loss(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log P(target), or -log(1 - P(label)) where the target is -1; the reward is its negation."""
    logs = logits.log_softmax(dim=1)
    others = logs.scatter(1, labels.view(-1, 1), -torch.inf).logsumexp(dim=1)
    return -torch.where(targets < 0, others, logs.gather(1, targets.clamp(min=0).view(-1, 1)).squeeze(1))
