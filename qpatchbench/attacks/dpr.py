"""DPR: a patch whose shape is optimised with its texture (Chen et al. 2022, Shape Matters: Deformable Patch Attack).

The deformable patch representation (ECCV 2022) makes a mask of rays around a centre, differentiably: `ops.deforming`.
Texture and rays follow an attack loss, the rays also the hinge max(0, area / budget - 1). Then the shape is cut to a
mask of zeros and ones, scaled to the area of the square that `size` names, at most, and only the texture is optimised
further. Iterates are kept from this second phase alone, since only they have the mask that is measured. The centre of a
shape is that of the square which the suite placed, so that attacks differ in shape and not in place.

The authors published their mask function, with 36 rays and a sharpness of 100, but no code of the attack. Everything
else is our own choice: the attack loss (the margin when untargeted, else cross-entropy with the target), schedule, step
sizes and starts. So are 12 rays and a sharpness that begins at 10. The paper's data sets are GTSRB and ImageNet; on an
image of 32 x 32 a mask of sharpness 100 has no gradient for many rays, and the shape would be frozen. The gradients of
loss and hinge are divided by their lengths before they are added, since the scale of logits differs by orders of
magnitude between bit-widths, and a plain weight that is right for one of them lets the area grow, or the shape stand
still, on others. Rays are no longer than the square's side, so that a patch is stored in a box of twice that side.
Later restarts begin with another shape and texture, on the images that are still unbroken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, field_validator

from qpatchbench.attacks.base import GradientAttack
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.deformable_patches import (
    Boxes,
    FoundShape,
    Report,
    best_texture,
    boxes_around,
    fitted_mask,
    of_area,
    of_length_1,
    paste_softly,
    sectors_of,
    soft_mask,
    start_rays,
)
from qpatchbench.ops.crafting.judgement import Judgement
from qpatchbench.ops.crafting.losses import cross_entropy, goal_classes, margin, succeeded
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import ImageDraws, forked
from qpatchbench.types import CraftTask, Network, Patch

SHORTEST_RAY = 0.5  # pixels


class _Victims(NamedTuple):
    """What a run works on: images (B, 3, H, W) with their labels, targets and boxes."""

    network: Network
    images: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    boxes: Boxes

    def judged(self, patched: torch.Tensor, where: str) -> Judgement:
        """The attack loss: the margin where there is no target, else the cross-entropy with it."""
        shown = self.network(patched).float(), self.labels, self.targets
        losses = torch.where(self.targets < 0, margin(*shown), cross_entropy(*shown))
        judgement = Judgement(losses, succeeded(*shown))
        judgement.require_finite(where)
        return judgement


class Dpr(GradientAttack):
    """One patch per image, optimised in texture and shape."""

    kind: ClassVar[Literal["universal", "per_image"]] = "per_image"
    learns: ClassVar[bool] = False
    trial: ClassVar[Mapping[str, Any]] = {"texture_steps": 0}

    steps: int = Field(
        default=300, ge=0, description="steps of shape and texture together; 0 keeps the shape of the start"
    )
    texture_steps: int = Field(default=100, ge=0, description="further steps of the texture under the final mask")
    rays: int = Field(default=12, ge=3, description="rays that span the shape; a small patch has few boundary pixels")
    step_size: float = Field(default=0.05, gt=0, le=1, description="Adam learning rate of the texture")
    shape_step_size: float = Field(
        default=0.1, ge=0, description="Adam learning rate of the rays", json_schema_extra={"unit": "pixels"}
    )
    sharpness: tuple[float, float] = Field(
        default=(10.0, 100.0), description="of the mask at the first and the last joint step, rising geometrically"
    )
    area_weight: float = Field(
        default=2.0, ge=0, description="pull of the hinge on the area against that of the loss; above 1 the hinge wins"
    )
    restarts: int = Field(default=3, gt=0, description="shapes to start with: circle, star, then random ones")

    @field_validator("sharpness")
    @classmethod
    def _rising(cls, sharpness: tuple[float, float]) -> tuple[float, float]:
        if not 0 < sharpness[0] <= sharpness[1]:
            raise ValueError(f"expected 0 < first <= last, found {list(sharpness)}")
        return sharpness

    def passes(self) -> float:
        """Forward passes per image and goal if no restart succeeds, a backward pass counted as two."""
        return self.restarts * (3.0 * (self.steps + self.texture_steps) + 1)

    def craft(self, task: CraftTask) -> Patch:
        """One texture, mask and place per goal and image."""
        return loops.goal_by_goal(task, self._for_one_goal)

    def _for_one_goal(self, task: CraftTask) -> Patch:
        images, given = task.require_places()
        device, side, count = images.pixels.device, self.size.side(images.side), len(images)
        box = min(2 * side - side % 2, images.side)  # all pixels nearer to the centre than the longest ray
        boxes = boxes_around(given.to(device), side, box, images.side)
        target = goal_classes(task.goals).to(device)
        # A stream for each restart: more of them leave the draws of the others as they are.
        streams = [ImageDraws.for_task(task, forked(task.generator)) for _ in range(self.restarts)]
        textures, masks = torch.zeros(count, 3, box, box, device=device), torch.zeros(count, 1, box, box, device=device)
        best = Judgement.worst(count, device)
        history = torch.zeros(self.steps + self.texture_steps, device=device)
        parts = loops.image_parts(count, images.side)
        runs = [(part, restart) for part in parts for restart in range(self.restarts)]
        for number, (part, restart) in enumerate(runs):
            unbroken = part.start + (~best.success[part]).nonzero().flatten()
            if not len(unbroken):
                continue

            def report(step: int, losses: torch.Tensor, number: int = number, restart: int = restart) -> None:
                if restart == 0:
                    history[step] += losses.sum() / count
                done = (number + (step + 1) / len(history)) / len(runs)
                task.progress(
                    done, {"loss": float(losses.mean()), task.success_name: 100 * float(best.success.float().mean())}
                )

            victims = _Victims(
                task.network,
                to_float(images.pixels[unbroken]),
                images.labels[unbroken],
                target.expand(len(unbroken)),
                Boxes(boxes.placement[unbroken], boxes.centres[unbroken]),
            )
            found = self._run(restart, victims, streams[restart].chosen(unbroken), side, box, report)
            better = found.judgement.better_than(Judgement(*(value[unbroken] for value in best)))
            for kept, new in zip((textures, masks, *best), (*found[:2], *found.judgement), strict=True):
                kept[unbroken[better]] = new[better]
        task.progress(1.0, {task.success_name: 100 * float(best.success.float().mean())})
        return Patch(textures, masks, task.goals, tuple(history.tolist()), placement=boxes.placement)

    def _run(
        self, restart: int, victims: _Victims, draws: ImageDraws, side: int, box: int, report: Report
    ) -> FoundShape:
        """Shape and texture together from one start, then the texture under the final mask."""
        sectors = sectors_of(victims.boxes.centres, box, self.rays)
        start = of_area(start_rays(restart, self.rays, draws), side**2).clamp(SHORTEST_RAY, side)
        rays, textures = start.clone().requires_grad_(), draws.uniform(3, box, box).requires_grad_()
        groups: list[dict[str, Any]] = [{"params": [textures]}, {"params": [rays], "lr": self.shape_step_size}]
        optimizer = torch.optim.Adam(groups, lr=self.step_size)
        first, last = self.sharpness
        for step in range(self.steps):
            masks = soft_mask(rays, sectors, first * (last / first) ** (step / max(1, self.steps - 1)))
            patched = paste_softly(victims.images, textures, masks, victims.boxes.placement)
            losses = victims.judged(patched, f"at step {step} of {self.steps}").losses
            excess = torch.relu(masks.sum(dim=(1, 2, 3)) / side**2 - 1)
            # Sums over images, not means: an image's step does not depend on those beside it.
            textures.grad, pull = torch.autograd.grad(losses.sum(), (textures, rays), retain_graph=True)
            (restraint,) = torch.autograd.grad(excess.sum(), rays)
            rays.grad = of_length_1(pull) + self.area_weight * of_length_1(restraint)
            optimizer.step()
            with torch.no_grad():
                textures.clamp_(0, 1)
                rays.clamp_(SHORTEST_RAY, side)
            report(step, losses.detach())
        return best_texture(
            victims.judged,
            victims.images,
            textures.detach(),
            fitted_mask(rays.detach(), sectors, side**2),
            victims.boxes.placement,
            steps=self.texture_steps,
            step_size=self.step_size,
            report=lambda step, losses: report(self.steps + step, losses),
        )
