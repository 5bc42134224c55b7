"""Small changes of a whole image: within epsilon of the clean one in every pixel (L_inf), and in [0, 1].

The update formulas of three papers, written for a loss that the attacker lowers (log P(label), or -log P(target)):
one step along the sign of the gradient (Goodfellow et al. 2015, arXiv 1412.6572, section 4), many steps with a
projection (Madry et al. 2018, arXiv 1706.06083, section 2.1), and momentum (Dong et al. 2018, arXiv 1710.06081,
Algorithm 1). A deployed network is shown 8-bit images, so what is kept of an iterate is its nearest 8-bit image
inside the ball, and that is what is judged; the iterates themselves are not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.judgement import Judgement
from qpatchbench.ops.crafting.losses import cross_entropy, goal_classes, succeeded
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.types import CraftTask, Network, Patch, Stage

LEVELS = 255

# (previous direction, gradient) -> direction, whose sign is followed downhill; the first previous one is 0.
Direction: TypeAlias = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]

# A size in pixel values: one for all pixels, or a tensor that broadcasts to (B, 3, H, W).
Extent: TypeAlias = "float | torch.Tensor"


def projected(images: torch.Tensor, clean: torch.Tensor, epsilon: Extent) -> torch.Tensor:
    """The nearest point within `epsilon` of `clean` in every pixel and in [0, 1]."""
    return (clean + (images - clean).clamp(min=-epsilon).clamp(max=epsilon)).clamp(0, 1)


def signed_step(
    images: torch.Tensor, direction: torch.Tensor, clean: torch.Tensor, *, step_size: Extent, epsilon: Extent
) -> torch.Tensor:
    """One step of x - step_size * sign(direction), projected; a pixel without a slope stays."""
    return projected(images - step_size * direction.sign(), clean, epsilon)


def gradient_itself(previous: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """No memory."""
    return gradient


def with_momentum(previous: torch.Tensor, gradient: torch.Tensor, decay: float) -> torch.Tensor:
    """The sum decay * g + gradient / ||gradient||_1, a norm for each image (Dong et al. 2018, equation 6)."""
    norm = gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
    return decay * previous + gradient / norm


def random_start(clean: torch.Tensor, draws: ImageDraws, epsilon: Extent) -> torch.Tensor:
    """Uniform in the ball, then cut to [0, 1]; every image from a stream of its own."""
    return projected(clean + epsilon * (2 * draws.uniform(*clean.shape[1:]) - 1), clean, epsilon)


def whole_levels(epsilon: float) -> int:
    """How many levels of an 8-bit pixel, 255 in all, fit into epsilon.

    >>> whole_levels(8 / 255), whole_levels(0.03), whole_levels(0.015)
    (8, 7, 3)
    """
    return math.floor(epsilon * LEVELS + 1e-6)


def to_8_bit_inside(images: torch.Tensor, clean: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The nearest k/255 within `epsilon` of `clean`, itself an 8-bit image.

    Rounding alone would leave a ball of 7.65 levels at 8; there the change is cut to 7, towards the clean image. The
    box [0, 1] cannot be left: its ends are levels.
    """
    most = whole_levels(epsilon)
    change = ((images - clean) * LEVELS).round().clamp(-most, most)
    return ((clean * LEVELS).round() + change) / LEVELS


def whole_images(
    task: CraftTask,
    images: torch.Tensor,
    history: tuple[float, ...],
    stages: tuple[Stage, ...] = (),
    attacked: torch.Tensor | None = None,
) -> Patch:
    """Adversarial images (P, 3, H, W) as patches that cover everything: masks of ones at row 0 and column 0."""
    corner = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    places = upright(corner, corner)
    masks = torch.ones_like(images[:, :1])
    return Patch(images, masks, task.goals, history, placement=places, stages=stages, attacked=attacked)


def judged_images(
    network: Network, images: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor, where: str
) -> Judgement:
    """Cross-entropy and success of finished images, without a graph; `where` is for the error message.

    Raises:
        AttackError: the network's output is not finite.
    """
    with torch.no_grad():
        logits = network(images)
    judgement = Judgement(cross_entropy(logits, labels, targets), succeeded(logits, labels, targets))
    judgement.require_finite(where)
    return judgement


class Descent(NamedTuple):
    """How a perturbation is found.

    Attributes:
        epsilon: largest change of a pixel.
        step_size: change of a pixel per step.
        steps: every one is taken.
        direction: what is followed.
        from_random: whether to start at a random point of the ball instead of the clean image.
    """

    epsilon: float
    step_size: float
    steps: int
    direction: Direction = gradient_itself
    from_random: bool = False


def perturbed_images(task: CraftTask, descent: Descent) -> Patch:
    """One adversarial image for each attacked image, goal after goal: the best iterate after the start.

    The gradient of each image's loss is taken by itself (sum, not mean), so results do not depend on how images are
    batched.

    Raises:
        AttackError: the network's output is not finite.
    """
    return loops.goal_by_goal(task, lambda one: _for_one_goal(one, descent))


def _for_one_goal(task: CraftTask, descent: Descent) -> Patch:
    images, _ = task.require_places()
    device, steps, epsilon = images.pixels.device, descent.steps, descent.epsilon
    draws = ImageDraws.of(len(images), task.generator, device)
    target = goal_classes(task.goals).to(device)
    history, parts = [0.0] * steps, []
    for these in loops.image_parts(len(images), images.side):
        part = torch.arange(these.start, these.stop, device=device)
        clean, labels, targets = to_float(images.pixels[part]), images.labels[part], target.expand(len(part))
        points = random_start(clean, draws.chosen(part), epsilon) if descent.from_random else clean
        direction = torch.zeros_like(clean)
        best, best_judgement = clean, Judgement.worst(len(part), device)
        for step in range(steps):
            current = points.clone().requires_grad_()
            losses = cross_entropy(task.network(current), labels, targets)
            Judgement(losses, losses > 0).require_finite(f"at step {step} of {steps}")
            (gradient,) = torch.autograd.grad(losses.sum(), current)
            direction = descent.direction(direction, gradient)
            points = signed_step(points, direction, clean, step_size=descent.step_size, epsilon=epsilon)
            candidate = to_8_bit_inside(points, clean, epsilon)
            judgement = judged_images(task.network, candidate, labels, targets, f"after step {step + 1} of {steps}")
            better = judgement.better_than(best_judgement)
            best = torch.where(better.view(-1, 1, 1, 1), candidate, best)
            best_judgement = judgement.where(better, best_judgement)
            history[step] += float(losses.detach().sum()) / len(images)
            done = (these.start + (step + 1) / steps * len(part)) / len(images)
            found = 100 * float(best_judgement.success.float().mean())
            task.progress(done, {"loss": float(losses.detach().mean()), "asr": found})
        parts.append(best)
    return whole_images(task, torch.cat(parts), tuple(history))
