"""Base of staged attacks: attacks in turn, each on the images that the ones before left unbroken, worst per image.

Images that the network gets wrong when clean are not attacked at all. An image that nothing breaks keeps the patch that
left the smallest margin; one that is not attacked keeps a universal patch, which costs nothing more, or the noise that
all start from where no stage makes one, and counts on no target.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field

from qpatchbench.attacks.base import Attack
from qpatchbench.component import create
from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.judgement import Found, Judgement, judged_patches
from qpatchbench.ops.crafting.loops import goal_by_goal
from qpatchbench.ops.crafting.losses import goal_classes, margin
from qpatchbench.ops.crafting.score_access import Scores
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import ImageDraws, forked
from qpatchbench.registry import ATTACKS
from qpatchbench.types import CraftTask, ImageSet, Patch, Placement, Stage


class Budget(NamedTuple):
    """What the stages may spend: steps of universal patches, steps and starts per image, queries."""

    universal_steps: int
    steps: int
    restarts: int
    queries: int


BUDGETS = {
    "standard": Budget(1000, 100, 2, 5000),
    "quick": Budget(200, 50, 1, 500),
    "trial": Budget(4, 3, 1, 40),
}


class StagedAttack(Attack):
    """Per image, the first attack of a set that succeeds."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    trial: ClassVar[Mapping[str, Any]] = {"effort": "trial"}

    targets: Literal["all", "untargeted"] | tuple[int, ...] = Field(
        default="untargeted", description="untargeted (the standard), all classes, or a list of class ids"
    )
    location: Literal["given", "searched"] = Field(
        default="searched",
        description="searched: per-image patches look for the worst place; given: every patch at the suite's places",
    )
    effort: Literal["standard", "quick", "trial"] = Field(
        default="standard",
        description="standard; quick: an eighth of the work, for trying out, say so in any table; or trial: a few "
        "steps, which only show that it runs",
    )

    @abstractmethod
    def stages(self, siblings: bool) -> Iterator[tuple[Attack, bool]]:
        """The attacks in their order, and whether each is crafted on the siblings too, where there are any."""

    def identity(self) -> dict[str, Any]:
        """Its own and that of its parts: a part that changes results changes these too."""
        parts = [[attack.identity(), together] for attack, together in self.stages(siblings=True)]
        return {**super().identity(), "parts": parts}

    def passes(self) -> float:
        """Forward passes per image and goal, a backward pass counted as two, if nothing breaks early."""
        return sum(attack.passes() for attack, _ in self.stages(siblings=True) if attack.kind == "per_image")

    def craft(self, task: CraftTask) -> Patch:
        """One texture, and with `searched` one place, per goal and image."""
        return goal_by_goal(task, self._for_one_goal)

    def stage(self, name: str, fields: Mapping[str, Any]) -> Attack:
        """The attack of that name, with this one's size and targets."""
        attack: Attack = create(ATTACKS, {"name": name, "size": self.size, "targets": self.targets, **fields})
        return attack

    def _for_one_goal(self, task: CraftTask) -> Patch:
        images, given = task.require_places()
        side, device = self.size.side(images.side), images.pixels.device
        given, targets = given.to(device), goal_classes(task.goals).to(device)
        right = self._right_when_clean(task, images)
        attacked = right & (images.labels != targets)
        attacks = [*self.stages(bool(task.siblings))]
        # Drawn before anything depends on the number of images, so that an image's patch does not.
        generators = [forked(task.generator) for _ in attacks]
        seeds = torch.randint(2**62, (len(images),), generator=task.generator)
        noise = ImageDraws(seeds.to(device)).uniform(3, side, side)
        best, stages = Found(noise, given, Judgement.worst(len(images), device)), []
        open_, queries = attacked.clone(), torch.ones_like(images.labels)  # one each: whether it is right when clean
        for index, ((attack, together), generator) in enumerate(zip(attacks, generators, strict=True)):
            chosen = open_.nonzero().flatten()
            own = task.part(index, len(attacks), generator=generator)
            if len(chosen):
                patch = attack.craft(self._handed_on(own, attack, together, chosen, given, seeds))
                shown = chosen if attack.kind == "per_image" else (open_ | ~attacked).nonzero().flatten()
                places = patch.placement.to(device) if patch.placement is not None else given[shown]
                textures = patch.textures.to(device).expand(len(shown), -1, -1, -1)
                judgement = self._judged(own, images.chosen(shown), textures, places)
                best = best.joined(shown, Found(textures, places, judgement))
                open_ = attacked & ~best.judgement.success
                if patch.queries is not None:
                    queries[chosen] += patch.queries.to(device) + open_[chosen]  # shown once more, rounded to 8 bits
            own.progress(1.0, {own.success_name: 100 * (1 - int(open_.sum()) / max(1, int(attacked.sum())))})
            stages.append(Stage(attack.name, attack.access, len(chosen), len(chosen) - int(open_.sum())))
        return Patch(
            best.textures,
            torch.ones_like(best.textures[:, :1]),
            task.goals,
            placement=best.placement if self.location == "searched" else None,
            queries=queries if self.access == "scores" else None,
            stages=tuple(stages),
            attacked=right,
        )

    def _handed_on(
        self,
        task: CraftTask,
        attack: Attack,
        together: bool,
        chosen: torch.Tensor,
        places: Placement,
        seeds: torch.Tensor,
    ) -> CraftTask:
        """The part of the task that one stage gets: the images still unbroken, if it works image by image."""
        network = Scores(task.network) if attack.access == "scores" else task.network
        networks = (network, *task.siblings) if together else (network,)
        alone = attack.kind == "per_image"
        return replace(
            task,
            networks=networks,
            siblings=(),
            attacked=task.images.chosen(chosen) if alone else None,
            placement=places[chosen] if alone else None,
            seeds=seeds[chosen.cpu()] if alone else None,
        )

    def _right_when_clean(self, task: CraftTask, images: ImageSet) -> torch.Tensor:
        """Which images the network gets right without a patch."""
        found = []
        for part in loops.image_parts(len(images), images.side):
            with torch.no_grad():
                logits = task.network(to_float(images.pixels[part]))
            if not bool(torch.isfinite(logits).all()):
                raise AttackError("the network's logits are not finite")
            found.append(logits.argmax(dim=1) == images.labels[part])
        return torch.cat(found)

    def _judged(self, task: CraftTask, images: ImageSet, textures: torch.Tensor, places: Placement) -> Judgement:
        """Margins and success of textures as they will be stored, rounded to 8 bits."""
        found = []
        for part in loops.image_parts(len(images), images.side):
            pixels, labels = to_float(images.pixels[part]), images.labels[part]
            targets = goal_classes(task.goals).to(labels.device).expand(len(labels))
            with torch.no_grad():
                judgement = judged_patches(task.network, margin, pixels, labels, targets, textures[part], places[part])
            judgement.require_finite("of a finished patch")
            found.append(judgement)
        return Judgement(*(torch.cat(values) for values in zip(*found, strict=True)))
