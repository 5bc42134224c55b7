"""Patch-Fool, a patch that draws attention to itself (Fu, Zhang, Wu, Wan, Lin 2022, arXiv 2203.08392).

Section 3. The patch lies on whole tokens, where the clean image's attention in one layer, averaged over heads and
queries, is largest. Two things are raised: the cross-entropy of the label (lowered for a target), and the attention
that all tokens pay to the patch in each layer of the first half. Where the gradient of a layer's attention points
against that of the cross-entropy, the conflicting part is taken out (PCGrad); the sum, the attention weighted by
alpha, is followed by Adam from random noise. 250 steps, the decay of 0.95 every 10 steps, alpha 0.002 and layer 4 of
0, 1, 2, .. are those of the authors' code, as is the logarithm of the attention instead of the paper's sum.

Deviations:
- the authors step by 0.22 on normalised images, which is 0.05 of the range [0, 1] with ImageNet's deviation of 0.225;
- their code divides by |m| where PCGrad's projection divides by |m|^2; here it is the projection;
- a patch of several tokens is one square of them, not tokens scattered over the image;
- their layers of the first half leave out the very first; a network of less than four layers keeps one;
- iterates are judged at 8 bits and the best is kept, where they keep the last;
- with `location: given` the patch lies on the tokens nearest to the suite's place, so that attacks can be compared.
"""  # noqa: D205 (the reference does not fit on one line)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from qpatchbench.attacks.base import GradientAttack
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.judgement import Judgement, judged_patches
from qpatchbench.ops.crafting.losses import cross_entropy, goal_classes
from qpatchbench.ops.maps.attention import Attending, attending, token_side, without_conflict
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import round_to_8_bit, to_float
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.types import CraftTask, Patch, Placement

DECAY, DECAY_EVERY = 0.95, 10


class PatchFool(GradientAttack):
    """One patch per image on whole tokens of a vision transformer, which also attracts its attention."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    learns: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = True
    trial: ClassVar[Mapping[str, Any]] = {"size": 4}  # a whole token

    steps: int = Field(default=250, gt=0, description="optimisation steps; every one is taken")
    step_size: float = Field(default=0.05, gt=0, le=1, description="Adam learning rate, times 0.95 every 10 steps")
    attention_weight: float = Field(default=0.002, ge=0, description="alpha, weight of each layer's attention")
    layer: int = Field(
        default=4, ge=0, description="attention layer, from 0, that chooses the place; at most the network's last"
    )
    location: Literal["attention", "given"] = Field(
        default="attention", description="the tokens most attended to, or those nearest to the suite's place"
    )

    @field_validator("backward")
    @classmethod
    def _own_gradient(cls, backward: str) -> str:
        if backward != "network":
            raise ValueError(f"expected network, whose own attention is attacked, found {backward}")
        return backward

    def passes(self) -> float:
        """Forward passes per image and goal, a backward pass counted as two; attention costs as much again."""
        return 6.0 * self.steps + 4

    def require_network(self, network: torch.nn.Module, image: torch.Tensor) -> None:
        """It has attention of all tokens to all others, and the patch is of whole tokens."""
        with attending(network, image) as seen:
            token_side(image.shape[-1], seen.grid, self.size.side(image.shape[-1]))

    def craft(self, task: CraftTask) -> Patch:
        """One texture per goal and image, and where it lies."""
        return loops.goal_by_goal(task, self._for_one_goal)

    def _for_one_goal(self, task: CraftTask) -> Patch:
        images, _ = task.require_places()
        side, device = self.size.side(images.side), images.pixels.device
        start = ImageDraws.of(len(images), task.generator, device).uniform(3, side, side)
        parts, places, history = [], [], torch.zeros(self.steps, device=device)
        for part in loops.image_parts(len(images), images.side):
            with attending(task.network, to_float(images.pixels[part])) as seen:
                placement, tokens = self._place(seen, task, part)
                best, losses = self._optimised(seen, task, part, start[part], placement, tokens)
            parts.append(best)
            places.append(placement)
            history += losses / len(images)
        textures = round_to_8_bit(torch.cat(parts))
        placement = Placement.concatenated(places)
        return Patch(
            textures, torch.ones_like(textures[:, :1]), task.goals, tuple(history.tolist()), placement=placement
        )

    def _place(self, seen: Attending, task: CraftTask, part: slice) -> tuple[Placement, torch.Tensor]:
        """Places on whole tokens, and which tokens (B, M) they cover; `seen` has just answered the clean images."""
        images, given = task.require_places()
        pixels = token_side(images.side, seen.grid, self.size.side(images.side))
        tokens = self.size.side(images.side) // pixels
        places = seen.grid - tokens + 1
        if self.location == "attention":
            received = seen.attention_received(min(self.layer, seen.depth - 1)).unsqueeze(1)
            best = torch.nn.functional.avg_pool2d(received, tokens, stride=1).flatten(1).argmax(dim=1)
            rows, columns = best // places, best % places
        else:
            own = given[part].to(images.pixels.device)
            rows, columns = ((start / pixels).round().long().clamp(max=places - 1) for start in (own.rows, own.columns))
        across = torch.arange(tokens, device=rows.device)
        covered = (rows.view(-1, 1, 1) + across.view(1, -1, 1)) * seen.grid + columns.view(-1, 1, 1) + across
        return upright(rows * pixels, columns * pixels), covered.flatten(1)

    def _optimised(
        self,
        seen: Attending,
        task: CraftTask,
        part: slice,
        start: torch.Tensor,
        placement: Placement,
        tokens: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best textures of some images, and the sum of their losses at each step."""
        every, _ = task.require_places()
        images, labels = to_float(every.pixels[part]), every.labels[part]
        targets = goal_classes(task.goals).to(labels.device).expand(len(labels))
        layers = first_half(seen.depth) if self.attention_weight else range(0)
        textures = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([textures], lr=self.step_size)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, DECAY_EVERY, DECAY)
        best, best_judgement = start, Judgement.worst(len(labels), labels.device)
        history = torch.zeros(self.steps, device=labels.device)
        for step in range(self.steps + 1):
            judgement = judged_patches(seen, cross_entropy, images, labels, targets, textures, placement)
            judgement.require_finite(f"at step {step} of {self.steps}")
            better = judgement.better_than(best_judgement)
            best = torch.where(better.view(-1, 1, 1, 1), textures.detach(), best)
            best_judgement = judgement.detached().where(better, best_judgement)
            if step == self.steps:
                break
            (gradient,) = torch.autograd.grad(judgement.losses.sum(), textures, retain_graph=len(layers) > 0)
            textures.grad = gradient.clone()
            for layer in layers:
                attention = -seen.log_attention_on(tokens, layer).sum()
                (drawn,) = torch.autograd.grad(attention, textures, retain_graph=layer != layers[-1])
                textures.grad += self.attention_weight * without_conflict(drawn, gradient)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                textures.clamp_(0, 1)
            history[step] = judgement.losses.detach().sum()
            done = (part.start + (step + 1) / self.steps * len(labels)) / len(every)
            figures = {
                "loss": float(history[step]) / len(labels),
                task.success_name: 100 * float(best_judgement.success.float().mean()),
            }
            task.progress(done, figures)
        return best, history


def first_half(depth: int) -> range:
    """Layers whose attention is drawn to the patch: from the second up to half of them, at least one."""
    first = min(1, depth - 1)
    return range(first, max(depth // 2, first + 1))
