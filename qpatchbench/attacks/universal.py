"""Base of universal gradient attacks, which differ in their objective and in where and how the patch may lie."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.attacks.base import GradientAttack
from qpatchbench.ops.crafting.finished_patches import universal_loss
from qpatchbench.ops.crafting.loops import mean_of_networks, universal_patches
from qpatchbench.types import HALF, CraftTask, Patch, Placement


class UniversalAttack(GradientAttack):
    """One patch per goal, optimised over images and placements; see `ops.crafting.universal_patches`."""

    sources: ClassVar[Literal["one", "any", "several"]] = "any"

    steps: int = Field(default=1000, gt=0, description="optimisation steps")
    step_size: float = Field(
        default=0.05, gt=0, description="Adam learning rate, falling to a tenth over the last quarter of the steps"
    )
    batch_size: int = Field(default=64, gt=0, description="images per step, each with every goal's patch")
    precision: Literal["32-true", "bf16-mixed"] = Field(
        default="32-true", description="arithmetic of the optimisation steps; bf16-mixed is up to twice as fast"
    )
    compile: bool = Field(
        default=False,
        exclude_if=lambda chosen: not chosen,  # keys of before it could be chosen stay
        description="fuse the operators of the source networks by torch.compile, which takes about half a minute for "
        "a network, and a step less time than before",
    )

    @abstractmethod
    def objective(self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits (B, K), labels (B,), targets (B,) with -1 for untargeted -> (B,), to be minimised."""

    @abstractmethod
    def place(self, count: int, image_size: tuple[int, int], generator: torch.Generator) -> Placement:
        """Draw `count` placements from the distribution that the patch is optimised for."""

    def weigh(self, losses: torch.Tensor) -> torch.Tensor:
        """Mean losses (networks, goals) -> (goals,): how the losses on several networks become one."""
        return mean_of_networks(losses)

    def loss_of(self, task: CraftTask, patch: Patch) -> float:
        """Mean loss of a finished patch over crafting images and goals, on the scale of its history."""
        side = task.crafting.side
        return universal_loss(
            task,
            patch.textures,
            objective=self.objective,
            placer=lambda count, draws: self.place(count, (side, side), draws),
            weighting=self.weigh,
        )

    def craft(self, task: CraftTask) -> Patch:
        """One texture per goal."""
        side = task.crafting.side
        textures, history = universal_patches(
            task,
            side=self.size.side(side),
            objective=self.objective,
            placer=lambda count, draws: self.place(count, (side, side), draws),
            steps=self.steps,
            step_size=self.step_size,
            batch_size=self.batch_size,
            half=self.precision == HALF,
            fused=self.compile,
            weighting=self.weigh,
        )
        return Patch(textures, torch.ones_like(textures[:, :1]), task.goals, history)
