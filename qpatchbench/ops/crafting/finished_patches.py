"""The loss of finished universal patches, on the scale on which their crafting recorded it."""

from __future__ import annotations

import torch

from qpatchbench.ops.crafting.loops import HeldOutJudge, Objective, Placer, Weighting
from qpatchbench.types import CraftTask


def universal_loss(
    task: CraftTask,
    textures: torch.Tensor,
    *,
    objective: Objective,
    placer: Placer,
    weighting: Weighting,
    draws: int = 4,
) -> float:
    """Mean loss of finished patches over all crafting images and goals, as the loop records it for its steps.

    Args:
        task: of the crafting; its generator draws the placements.
        textures: (G, 3, h, w) in [0, 1].
        objective: of the attack.
        placer: of the attack.
        weighting: of the attack.
        draws: how many placements each image gets.
    """
    judges = [HeldOutJudge(task, task.crafting, objective, placer, weighting) for _ in range(draws)]
    device = task.crafting.pixels.device
    return float(torch.stack([judge(textures.to(device)).loss.mean() for judge in judges]).mean())
