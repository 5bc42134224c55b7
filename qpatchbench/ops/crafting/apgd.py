"""Auto-PGD, projected gradient descent that sets its own step size (Croce, Hein 2020, arXiv 2003.01690, Algorithm 1).

Steps follow the sign of the gradient with momentum 0.75; the first is as long as the box is wide. At checkpoints,
whose distances shrink, an image's step is halved and its search goes back to its best point if (condition 1) fewer
than 0.75 of the steps since the last checkpoint were improvements, or (condition 2) the step was not halved at the
last checkpoint and the best loss has not improved since.

The paper maximises; here losses are minimised, as everywhere in this package: negate a loss to maximise it.
As in the authors' code, condition 1 includes equality, and after going back the next step is an improvement if it
is one over the point that was left. Unlike there, the loss of the starting point takes part in the first condition
(their comparison is with 0, an entry not yet written), and checkpoints of a short run keep the paper's shares of
it instead of rounding their distances down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

from qpatchbench.ops.crafting.judgement import Judgement

# (B, ...) points, requiring a gradient -> their losses, each a function of its own point only, and success.
Judge: TypeAlias = Callable[["torch.Tensor"], Judgement]
# Told the number of steps done, the losses there and the best so far.
Report: TypeAlias = Callable[[int, "torch.Tensor", Judgement], None]

MOMENTUM = 0.75  # alpha
LEAST_IMPROVING = 0.75  # rho
FIRST_CHECKPOINT, LEAST_DISTANCE, SHRINKING = 22, 6, 3  # percent of the steps


class ApgdRun(NamedTuple):
    """What a run found.

    Attributes:
        best: (B, ...), per image the best point visited, success first and loss second.
        judgement: of `best`.
        history: (steps, B), the loss after each step.
    """

    best: torch.Tensor
    judgement: Judgement
    history: torch.Tensor


class _Lowest(NamedTuple):
    """The point of lowest loss, whether or not it succeeds: where the schedule goes back to."""

    points: torch.Tensor
    gradients: torch.Tensor
    losses: torch.Tensor


def checkpoints(steps: int) -> tuple[int, ...]:
    """After which steps the step size is judged.

    w_j = ceil(p_j * steps) with p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06).

    >>> checkpoints(100)
    (22, 41, 57, 70, 80, 87, 93, 99)
    """
    share, distance, found = FIRST_CHECKPOINT, FIRST_CHECKPOINT, []
    while share <= 100:
        found.append(-(-share * steps // 100))  # in whole percent: 0.41 * 100 is not 41 in floating point
        distance = max(distance - SHRINKING, LEAST_DISTANCE)
        share += distance
    return tuple(dict.fromkeys(found))


def auto_pgd(
    judge: Judge,
    start: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    *,
    steps: int,
    first_step: float = 1.0,
    report: Report | None = None,
) -> ApgdRun:
    """Minimise each image's loss in the box between `lower` and `upper`.

    Args:
        judge: gives the losses and their graph; called steps + 1 times, on every point visited.
        start: (B, ...), inside the box.
        lower: the box's lower corner, broadcastable to `start`.
        upper: its upper corner.
        steps: steps of the schedule; every one is taken.
        first_step: twice the radius of the ball; 1 where the box is [0, 1].
        report: told after each step.

    Raises:
        AttackError: a loss is not finite.
    """
    wide = (-1,) + (1,) * (start.dim() - 1)
    points = previous = start.detach()
    judgement, gradients = _evaluated(judge, points, 0, steps)
    best, best_judgement = points, judgement
    lowest = lowest_at_checkpoint = _Lowest(points, gradients, judgement.losses)
    step_size = torch.full_like(judgement.losses, first_step, dtype=start.dtype)
    improvements = torch.zeros_like(judgement.losses, dtype=torch.int64)
    halved = torch.ones_like(judgement.success)
    last, history = 0, []
    watched = checkpoints(steps)
    for step in range(1, steps + 1):
        momentum = MOMENTUM if step > 1 else 1.0
        stepped = _clamped(points - step_size.view(wide) * gradients.sign(), lower, upper)
        moved = points + momentum * (stepped - points) + (1 - momentum) * (points - previous)
        previous, points, before = points, _clamped(moved, lower, upper), judgement.losses
        judgement, gradients = _evaluated(judge, points, step, steps)

        better = judgement.better_than(best_judgement)
        best, best_judgement = torch.where(better.view(wide), points, best), judgement.where(better, best_judgement)
        visited = _Lowest(points, gradients, judgement.losses)
        lowest = _chosen(judgement.losses < lowest.losses, visited, lowest)
        improvements += judgement.losses < before
        history.append(judgement.losses)
        if step in watched:
            slow = improvements <= LEAST_IMPROVING * (step - last)
            stuck = ~halved & (lowest.losses >= lowest_at_checkpoint.losses)
            halved = slow | stuck
            step_size = torch.where(halved, step_size / 2, step_size)
            points, gradients, _ = _chosen(halved, lowest, visited)
            improvements, last, lowest_at_checkpoint = torch.zeros_like(improvements), step, lowest
        if report is not None:
            report(step, judgement.losses, best_judgement)
    return ApgdRun(best, best_judgement, torch.stack(history))


def _evaluated(judge: Judge, points: torch.Tensor, step: int, steps: int) -> tuple[Judgement, torch.Tensor]:
    """Judgement, and the gradient of each point's own loss: of their sum, so that batches change nothing."""
    points = points.clone().requires_grad_()
    judgement = judge(points)
    judgement.require_finite(f"at step {step} of {steps}")
    (gradients,) = torch.autograd.grad(judgement.losses.sum(), points)
    return judgement.detached(), gradients


def _chosen(choice: torch.Tensor, first: _Lowest, second: _Lowest) -> _Lowest:
    """`first` where `choice` (B,), `second` elsewhere."""
    wide = choice.view((-1,) + (1,) * (first.points.dim() - 1))
    return _Lowest(
        torch.where(wide, first.points, second.points),
        torch.where(wide, first.gradients, second.gradients),
        torch.where(choice, first.losses, second.losses),
    )


def _clamped(points: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    return torch.minimum(torch.maximum(points, lower), upper)
