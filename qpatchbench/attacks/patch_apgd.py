"""Auto-PGD on the pixels of one image's patch, with restarts and a search for the place.

Auto-PGD (Croce, Hein 2020, arXiv 2003.01690) has no step size to tune. The patch's valid box [0, 1] is its ball
(centre 0.5, radius 0.5), hence a first step of 1. One of three losses of the logits is minimised over the texture:
the margin, or the paper's cross-entropy or difference of logits ratio. Each iterate is judged, and its gradient
taken, as it will be stored, rounded to 8 bits.

Places: `searched` is the worst case over places: the most sensitive window, found as for rectangular occlusion attacks
(ROA; Wu, Tong, Vorobeychik 2020, arXiv 1909.09552), and random ones. `given` attacks where the suite placed the patch,
as every attack of a paired comparison does.

Defaults: 100 steps and their schedule are the paper's, 20 candidate windows those of ROA's training; two restarts,
four random places and the margin, which does not saturate on confident networks, are our own choice. As in the
authors' code, every start is random, and an image is attacked again only while no run has succeeded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.attacks.base import GradientAttack
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.apgd import auto_pgd
from qpatchbench.ops.crafting.judgement import Found, Judgement, judged_patches
from qpatchbench.ops.crafting.loops import Objective
from qpatchbench.ops.crafting.losses import classes_for_dlr, cross_entropy, dlr, goal_classes, margin
from qpatchbench.ops.patches.locating import allowed_places, most_sensitive_places, random_places
from qpatchbench.ops.patches.pasting import round_to_8_bit, to_float
from qpatchbench.ops.randomness import ImageDraws, forked
from qpatchbench.types import Announced, CraftTask, Patch, Placement

OBJECTIVES: Mapping[str, Objective] = {"margin": margin, "cross_entropy": cross_entropy, "dlr": dlr}


class PatchApgd(GradientAttack):
    """Auto-PGD on one patch per image; per image the worst case over restarts and places."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    version: ClassVar[int] = 2
    trial: ClassVar[Mapping[str, Any]] = {"random_places": 1}

    steps: int = Field(default=100, gt=0, description="steps of one run's schedule; every one is taken")
    restarts: int = Field(default=2, gt=0, description="random starts per place")
    loss: Literal["margin", "cross_entropy", "dlr"] = Field(
        default="margin",
        description="what is minimised; margin: the best logit of any other class less the one aimed for; dlr, the "
        "difference of logits ratio of AutoAttack, does not depend on the scale of the logits and needs 3 classes, 4 "
        "when targeted",
    )
    location: Literal["given", "searched"] = Field(
        default="searched",
        description="the worst of the places searched, or where the suite placed the patch, for paired comparisons",
    )
    candidates: int = Field(
        default=20, gt=0, description="windows of largest gradient that the search compares with a grey patch"
    )
    random_places: int = Field(default=4, ge=0, description="further places that the search draws uniformly")

    def passes(self) -> float:
        """Forward passes per image and goal if no run succeeds, a backward pass counted as two."""
        places, search = (1, 0) if self.location == "given" else (1 + self.random_places, 3 + self.candidates)
        return float(3 * (self.steps + 1) * self.restarts * places + search)

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """The difference of logits ratio divides by the third logit, or the fourth."""
        needed = classes_for_dlr(targeted=self.targets != "untargeted")
        if self.loss == "dlr" and known.classes < needed:
            targeted = "untargeted" if self.targets == "untargeted" else "targeted"
            yield (
                "loss",
                f"expected at least {needed} classes for the {targeted} loss dlr, found {known.classes}; margin works "
                "with any number",
            )

    def craft(self, task: CraftTask) -> Patch:
        """One texture per goal and image; with its place, where it was searched."""
        return loops.goal_by_goal(task, self._for_one_goal)

    def _for_one_goal(self, task: CraftTask) -> Patch:
        images, _ = task.require_places()
        device = images.pixels.device
        # A stream for places and one for each restart: more of either leaves the draws of the others as they are.
        streams = [ImageDraws.for_task(task, forked(task.generator)) for _ in range(1 + self.restarts)]
        parts, history = [], torch.zeros(self.steps, device=device)
        for part in loops.image_parts(len(images), images.side):
            index = torch.arange(part.start, part.stop, device=device)
            found, losses = self._on_batch(task, part, [stream.chosen(index) for stream in streams])
            parts.append(found)
            history += losses.sum(dim=1) / len(images)
        textures = round_to_8_bit(torch.cat([part.textures for part in parts]))
        places = Placement.concatenated([part.placement for part in parts])
        return Patch(
            textures,
            torch.ones_like(textures[:, :1]),
            task.goals,
            tuple(history.tolist()),
            placement=places if self.location == "searched" else None,
        )

    def _on_batch(self, task: CraftTask, part: slice, draws: list[ImageDraws]) -> tuple[Found, torch.Tensor]:
        """What was found for some images, and their losses (steps, B) in the first run."""
        every, given = task.require_places()
        images, labels = to_float(every.pixels[part]), every.labels[part]
        count, side, objective = len(labels), self.size.side(every.side), OBJECTIVES[self.loss]
        targets = goal_classes(task.goals).to(labels.device).expand(count)
        place_draws, *start_draws = draws

        def losses(patched: torch.Tensor) -> torch.Tensor:
            return objective(task.network(patched), labels, targets)

        def percent(success: torch.Tensor) -> float:
            return 100 * (1 - int((~success).sum()) / count)  # images broken in earlier runs take no part in this one

        places = [given[part].to(labels.device)]
        if self.location == "searched":
            anywhere = allowed_places((every.side, every.side), (side, side))
            places = [most_sensitive_places(images, losses, (side, side), self.candidates)]
            places += [random_places(anywhere, place_draws) for _ in range(self.random_places)]
        nothing = torch.zeros(count, 3, side, side, device=labels.device)
        found, history = Found(nothing, places[0], Judgement.worst(count, labels.device)), torch.empty(0)
        runs = [(place, stream) for stream in start_draws for place in places]
        for number, (place, stream) in enumerate(runs):
            unbroken = (~found.judgement.success).nonzero().flatten()
            if not len(unbroken):
                break
            start, own_place = stream.uniform(3, side, side)[unbroken], place[unbroken]

            def report(step: int, losses: torch.Tensor, best: Judgement, number: int = number) -> None:
                done = (number + step / self.steps) / len(runs)
                figures = {"loss": float(losses.mean()), task.success_name: percent(best.success)}
                task.progress((part.start + done * count) / len(every), figures)

            chosen = images[unbroken], labels[unbroken], targets[unbroken]
            judge = partial(judged_patches, task.network, objective, *chosen, placement=own_place)
            box = torch.zeros_like(start), torch.ones_like(start)
            run = auto_pgd(judge, start, *box, steps=self.steps, report=report)
            found = found.joined(unbroken, Found(run.best, own_place, run.judgement))
            history = run.history if number == 0 else history
        task.progress(part.stop / len(every), {task.success_name: percent(found.judgement.success)})
        return found, history
