"""AutoPatch: a fixed set of patch attacks with nothing to tune, and per image the worst of them.

In the spirit of AutoAttack (Croce, Hein 2020, arXiv 2003.01690): complementary attacks run one after the other, each on
the images that the ones before left unbroken; images that the network gets wrong when clean are not attacked at all.

    1. gap on the evaluated network                    universal, cheap, no search
    2. ensemble of all bit-widths of the backbone      universal; left out where there is one bit-width only
    3. patch_apgd, cross-entropy                       per image, two starts
    4. patch_apgd, difference of logits ratio          unmoved by the scale of the logits, which can starve 3
    5. sparse_rs                                       no gradient: what it adds, gradients were hiding

The stages come back with the patch, and the harness flags a network on which the fifth adds much. All patches are
squares of one size; `given` keeps every one at the suite's places, `searched` lets 3, 4 and 5 look for a better one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field

from qpatchbench.attacks.base import Attack, GradientAttack
from qpatchbench.component import create
from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.loops import goal_by_goal
from qpatchbench.ops.crafting.losses import goal_classes, succeeded
from qpatchbench.ops.crafting.score_access import Scores
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit, to_float
from qpatchbench.ops.randomness import forked
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


class AutoPatch(GradientAttack):
    """The standard evaluation; per image, the first attack of the set that succeeds."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    wants_siblings: ClassVar[bool] = True
    trial: ClassVar[Mapping[str, Any]] = {"effort": "trial"}

    targets: Literal["all", "untargeted"] | tuple[int, ...] = Field(
        default="untargeted", description="untargeted (the standard), all classes, or a list of class ids"
    )
    location: Literal["given", "searched"] = Field(
        default="given",
        description="given: every patch at the suite's places; searched: per-image ones look for better",
    )
    effort: Literal["standard", "quick", "trial"] = Field(
        default="standard",
        description="standard; quick: an eighth of the work, for trying out, say so in any table; or trial: a few "
        "steps, which only show that it runs",
    )

    def identity(self) -> dict[str, Any]:
        """Its own and that of its parts: a part that changes results changes these too."""
        parts = [[attack.identity(), together] for attack, together in self._stages(siblings=True)]
        return {**super().identity(), "parts": parts}

    def passes(self) -> float:
        """Forward passes per image and goal, a backward pass counted as two, if nothing breaks early."""
        budget = BUDGETS[self.effort]
        return 2 * 3.0 * budget.steps * budget.restarts + budget.queries

    def craft(self, task: CraftTask) -> Patch:
        """One texture, and with `searched` one place, per goal and image."""
        return goal_by_goal(task, self._for_one_goal)

    def _stages(self, siblings: bool) -> Iterator[tuple[Attack, bool]]:
        """The attacks in their order, and whether each is crafted on the siblings too."""
        budget = BUDGETS[self.effort]
        universal: dict[str, Any] = {"steps": budget.universal_steps}
        search: dict[str, Any] = {"steps": budget.steps, "restarts": budget.restarts, "location": self.location}
        yield self._attack("gap", universal), False
        if siblings:
            yield self._attack("ensemble", universal), True
        yield self._attack("patch_apgd", {**search, "loss": "cross_entropy"}), False
        yield self._attack("patch_apgd", {**search, "loss": "dlr"}), False
        yield self._attack("sparse_rs", {"queries": budget.queries, "location": self.location}), False

    def _attack(self, name: str, fields: dict[str, Any]) -> Attack:
        attack: Attack = create(ATTACKS, {"name": name, "size": self.size, "targets": self.targets, **fields})
        return attack

    def _for_one_goal(self, task: CraftTask) -> Patch:
        images, given = task.require_places()
        side, device = self.size.side(images.side), images.pixels.device
        textures = torch.full((len(images), 3, side, side), 0.5, device=device)
        placement = given.to(device)
        placement = Placement(placement.rows.clone(), placement.columns.clone(), placement.angles, placement.scales)
        open_ = ~self._broken(task, images, None, placement) & (images.labels != goal_classes(task.goals).to(device))
        attacks = [*self._stages(bool(task.siblings))]
        # Drawn before anything depends on the number of images, so that an image's patch does not.
        generators = [forked(task.generator) for _ in attacks]
        seeds = torch.randint(2**62, (len(images),), generator=task.generator)
        stages = []
        for index, ((attack, together), generator) in enumerate(zip(attacks, generators, strict=True)):
            chosen = open_.nonzero().flatten()
            own = task.part(index, len(attacks), generator=generator)
            if len(chosen):
                patch = attack.craft(self._handed_on(own, attack, together, chosen, placement, seeds))
                found = patch.placement.to(device) if patch.placement is not None else placement[chosen]
                drawn = patch.textures.to(device).expand(len(chosen), -1, -1, -1)
                won = self._broken(own, images.chosen(chosen), drawn, found)
                textures[chosen[won]] = drawn[won]
                placement.rows[chosen[won]], placement.columns[chosen[won]] = found.rows[won], found.columns[won]
                open_[chosen[won]] = False
            own.progress(1.0, {"asr": 100 * float((~open_).float().mean())})
            stages.append(Stage(attack.name, attack.access, len(chosen), len(chosen) - int(open_[chosen].sum())))
        return Patch(
            textures,
            torch.ones_like(textures[:, :1]),
            task.goals,
            placement=placement if self.location == "searched" else None,
            stages=tuple(stages),
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

    def _broken(
        self, task: CraftTask, images: ImageSet, textures: torch.Tensor | None, places: Placement
    ) -> torch.Tensor:
        """Which images the textures break, rounded as they will be stored; without textures, which are wrong clean."""
        target = -1 if textures is None else int(goal_classes(task.goals))
        found = []
        for part in loops.image_parts(len(images), images.side):
            shown = to_float(images.pixels[part])
            if textures is not None:
                shown = paste(shown, round_to_8_bit(textures[part]), torch.ones_like(textures[:1, :1]), places[part])
            with torch.no_grad():
                logits = task.network(shown)
            if not bool(torch.isfinite(logits).all()):
                raise AttackError("the network's logits are not finite")
            labels = images.labels[part]
            found.append(succeeded(logits, labels, torch.full_like(labels, target)))
        return torch.cat(found)
