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

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field

from qpatchbench.attacks.base import Attack
from qpatchbench.errors import AttackError
from qpatchbench.ops import crafting
from qpatchbench.ops.crafting import goal_by_goal
from qpatchbench.ops.locating import upright
from qpatchbench.ops.losses import goal_classes, succeeded
from qpatchbench.ops.pasting import paste, to_float
from qpatchbench.ops.policies import Policies, fresh_policies, reinforced, sampled
from qpatchbench.ops.randomness import ImageDraws, forked
from qpatchbench.ops.textures import Textures, cut_out, texture_dictionary
from qpatchbench.types import CraftTask, Goal, Patch, Targeted

LEVELS = 16  # of a colour channel: multiples of 17/255, from 0 to 1
CONVERGED = 1e-4  # second difference of the mean reward


class _Found(NamedTuple):
    """The best of B images: choices (B, 5), their losses (B,), and the queries (B,) spent."""

    choices: torch.Tensor
    losses: torch.Tensor
    queries: torch.Tensor


class PatchAttack(Attack):
    """A policy of its own for every image, trained by the scores of what it tries."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    access: ClassVar[Literal["gradient", "scores", "none"]] = "scores"

    agent: Literal["tpa", "mpa"] = Field(default="tpa", description="cut from a texture (tpa), or of one colour (mpa)")
    queries: int = Field(default=10_000, gt=0, description="images shown to the network for each attacked image")
    samples: int = Field(default=50, gt=1, description="patches tried per step of a policy")
    step_size: float = Field(default=0.03, gt=0, description="Adam learning rate of a policy")
    textures_per_class: int = Field(
        default=3, gt=0, description="clusters of a class's crafting images; 30 in the paper"
    )
    texture_steps: int = Field(default=100, ge=0, description="steps of the synthesis of textures; 0: they are images")

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
        parts, history = [], torch.zeros(-(-self.queries // self.samples))
        for first in range(0, len(images), crafting.PER_IMAGE_BATCH):
            index = torch.arange(first, min(first + crafting.PER_IMAGE_BATCH, len(images)), device=images.pixels.device)
            found, losses = self._on_batch(task, textures, index, *(stream.chosen(index) for stream in streams))
            history += losses * len(index) / len(images)
            parts.append(found)
        found = _Found(*(torch.cat(values) for values in zip(*parts, strict=True)))
        patches = _drawn(found.choices, textures, self.size.side(images.side))
        places = upright(found.choices[:, 0], found.choices[:, 1])
        return Patch(
            patches,
            torch.ones_like(patches[:, :1]),
            task.goals,
            tuple(history.tolist()),
            placement=places,
            queries=found.queries,
        )

    def _on_batch(
        self,
        task: CraftTask,
        textures: torch.Tensor | None,
        index: torch.Tensor,
        draws: ImageDraws,
        fresh: ImageDraws,
    ) -> tuple[_Found, torch.Tensor]:
        """What was found for some images, and the mean loss of the best after every step."""
        images, _ = task.require_places()
        pixels, labels = to_float(images.pixels[index]), images.labels[index]
        choices = self._alternatives(images.side, textures)
        policies = fresh_policies(choices, fresh)
        active = torch.arange(len(index), device=index.device)
        best = torch.zeros(len(index), len(choices), dtype=torch.int64, device=index.device)
        lowest, spent = torch.full(index.shape, torch.inf, device=index.device), torch.full_like(index, self.queries)
        means = torch.zeros(len(index), 3, device=index.device)
        history: list[float] = []
        for step, shown in enumerate(range(0, self.queries, self.samples)):
            count = min(self.samples, self.queries - shown)
            if len(active):
                sample = sampled(policies, choices, count, draws)
                losses, won = self._tried(task, textures, pixels, labels, sample.choices)
                if not bool(torch.isfinite(losses).all()):
                    raise AttackError(f"the loss is not finite at query {shown + count} of {self.queries}")
                broken = won.any(dim=1)
                value, place = torch.where(won | ~broken.view(-1, 1), losses, torch.inf).min(dim=1)
                better = broken | (value < lowest[active])
                chosen = sample.choices[torch.arange(len(active), device=active.device), place]
                best[active[better]], lowest[active[better]] = chosen[better], value[better]
                spent[active[broken]] = shown + count
                policies = reinforced(policies, sample, -losses, self.step_size)
                means = torch.cat((means[:, 1:], losses.mean(dim=1, keepdim=True)), dim=1)
                kept = ~broken
                active, pixels, labels, means = active[kept], pixels[kept], labels[kept], means[kept]
                draws, fresh, policies = draws.chosen(kept), fresh.chosen(kept), policies.chosen(kept)
                policies = self._renewed(policies, means, choices, ImageDraws(fresh.seeds + step + 1))
            history.append(float(lowest.mean()))
            done = (int(index[0]) + min(1.0, (shown + count) / self.queries) * len(index)) / len(images)
            task.progress(done, {"loss": history[-1], "asr": 100 * (1 - len(active) / len(index))})
        return _Found(best, lowest, spent), torch.tensor(history)

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
        together = max(1, crafting.PER_IMAGE_BATCH // len(pixels))  # patches per image in one pass of the network
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

    def _renewed(
        self, policies: Policies, means: torch.Tensor, choices: tuple[int, ...], draws: ImageDraws
    ) -> Policies:
        """The policies, those that have converged replaced by fresh ones."""
        bend = (means[:, 0] - 2 * means[:, 1] + means[:, 2]).abs()
        converged = (bend < CONVERGED) & (policies.steps[:, 0] >= 3)
        if not bool(converged.any()):
            return policies
        return policies.put(converged, fresh_policies(choices, draws.chosen(converged)))


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
