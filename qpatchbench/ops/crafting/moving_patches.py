"""A patch that moves while it is optimised (Rao, Stutz, Schiele 2020, arXiv 2005.02313).

Each step changes the texture along the sign of the gradient and then, where a move by `stride` pixels would lower
the loss, moves the patch with its content. Both sides of that comparison hold the same content, so a move that is
made never raises the loss. In the authors' code the content stays behind when the patch moves (it is assigned to a
copy) and a move is compared with the loss before the step; here neither is so. Textures are judged as they will be
stored, rounded to 8 bits, unless they are made for training, where nothing is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting.judgement import Judgement, judged_patches
from qpatchbench.ops.crafting.loops import Objective
from qpatchbench.ops.finiteness import FiniteSteps
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.types import Network, Placement

# Told the number of steps done, the losses there and the best so far.
Report: TypeAlias = Callable[[int, "torch.Tensor", Judgement], None]

UP, DOWN, LEFT, RIGHT = (-1, 0), (1, 0), (0, -1), (0, 1)


class Moves(NamedTuple):
    """How a patch may move.

    Attributes:
        allowed: (rows, columns) bool, where its top-left pixel may lie.
        stride: pixels per move; 0: it never moves.
        directions: how many of the four directions are tried per step: 0 none, 1 a random one, 4 all.
    """

    allowed: torch.Tensor
    stride: int
    directions: int

    @property
    def passes(self) -> int:
        """Forward passes per step that they cost: one for each direction, and one for staying."""
        return self.directions + 1 if self.directions and self.stride else 0


class Moved(NamedTuple):
    """What a run found.

    Attributes:
        textures: (B, 3, h, w) in [0, 1]; per image the best.
        placement: where each lies.
        judgement: of these.
        history: (steps, B), the loss before each step.
    """

    textures: torch.Tensor
    placement: Placement
    judgement: Judgement
    history: torch.Tensor


def moving_patches(
    network: Network,
    objective: Objective,
    images: torch.Tensor,
    labels: torch.Tensor,
    targets: torch.Tensor,
    textures: torch.Tensor,
    placement: Placement,
    *,
    moves: Moves,
    draws: ImageDraws,
    steps: int,
    step_size: float,
    report: Report | None = None,
    stored: bool = True,
) -> Moved:
    """Lower each image's loss by texture and place.

    Args:
        network: in the mode it shall be attacked in.
        objective: minimised; of each image its own.
        images: (B, 3, H, W) in [0, 1].
        labels: (B,) int64.
        targets: (B,) int64; -1 for untargeted.
        textures: (B, 3, h, w) in [0, 1], the start.
        placement: upright, the start; an allowed place for every image.
        moves: how patches may move.
        draws: random directions, a stream per image.
        steps: changes of texture; every one is made.
        step_size: of a pixel per step.
        report: told after each step.
        stored: judge, and return, textures on the 8-bit grid, success before loss; else as they are, by loss alone.

    Raises:
        AttackError: a loss is not finite.
    """

    def judge(textures: torch.Tensor, placement: Placement) -> Judgement:
        if stored:
            judgement = judged_patches(network, objective, images, labels, targets, textures, placement)
        else:
            logits = network(paste(images, textures, torch.ones_like(textures[:1, :1]), placement))
            losses = objective(logits, labels, targets)
            judgement = Judgement(losses, torch.zeros_like(labels, dtype=torch.bool))
        finite.note(judgement.losses, step)
        return judgement

    def losses_at(placement: Placement) -> torch.Tensor:
        return judge(textures, placement).losses

    placement, finite = placement.to(images.device), FiniteSteps()
    best, best_judgement = (textures, placement), Judgement.worst(len(images), images.device)
    history = []
    for step in range(steps + 1):
        current = textures.clone().requires_grad_()
        judgement = judge(current, placement)
        better = judgement.better_than(best_judgement)
        best_judgement = judgement.detached().where(better, best_judgement)
        best = torch.where(better.view(-1, 1, 1, 1), textures, best[0]), _where(better, placement, best[1])
        if step == steps:
            break
        history.append(judgement.losses.detach())
        (gradients,) = torch.autograd.grad(judgement.losses.sum(), current)
        textures = (textures - step_size * gradients.sign()).clamp(0, 1)
        if moves.passes:
            with torch.no_grad():
                placement = relocated(losses_at, placement, moves, draws)
        if report is not None:
            report(step + 1, history[-1], best_judgement)
    if (failed := finite.first_failure()) is not None:
        raise AttackError(
            f"the loss is not finite at step {failed} of {steps}: the network's output holds NaN or infinity"
        )
    found = round_to_8_bit(best[0]) if stored else best[0]
    return Moved(found, best[1], best_judgement, torch.stack(history))


def relocated(
    losses: Callable[[Placement], torch.Tensor], placement: Placement, moves: Moves, draws: ImageDraws
) -> Placement:
    """Each patch one stride away in the direction tried that lowers its loss most, or where it was if none does.

    Args:
        losses: of the same patches at the given places, (B,).
        placement: upright, B places.
        moves: where patches may lie, how far they move and how many directions are tried.
        draws: which direction, where one is tried.
    """
    device = placement.rows.device
    steps = (moves.stride * torch.tensor((UP, DOWN, LEFT, RIGHT))).to(device)
    tried = steps[draws.integers(4, 1)] if moves.directions == 1 else steps.expand(len(placement), -1, -1)
    last = torch.tensor(moves.allowed.shape, device=device) - 1
    allowed = moves.allowed.to(device)
    best, lowest = placement, losses(placement)
    for direction in range(tried.shape[1]):
        place = torch.stack((placement.rows, placement.columns), dim=1) + tried[:, direction]
        inside = ((place >= 0) & (place <= last)).all(dim=1)
        place = torch.minimum(place.clamp(min=0), last)
        legal = inside & allowed[place[:, 0], place[:, 1]]
        candidate = _where(legal, upright(place[:, 0], place[:, 1]), placement)
        found = losses(candidate)
        lower = legal & (found < lowest)
        best, lowest = _where(lower, candidate, best), torch.where(lower, found, lowest)
    return best


def _where(choice: torch.Tensor, first: Placement, second: Placement) -> Placement:
    return upright(torch.where(choice, first.rows, second.rows), torch.where(choice, first.columns, second.columns))
