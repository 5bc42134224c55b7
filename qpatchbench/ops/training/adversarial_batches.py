"""The common steps of adversarial training: a batch that is attacked in part, its loss, and signed ascent.

    min over weights of E [ max over perturbations of L(f(perturbed x), y) ]

(Madry et al. 2018, arXiv 1706.06083, equation 2.1). The variants differ in what a perturbation may be.
"""  # noqa: D214 (a formula)

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch

from qpatchbench.errors import TrainingError
from qpatchbench.ops.crafting.pixel_attacks import Extent, signed_step
from qpatchbench.types import Bits, Losses, Network, Size

# Images (B, 3, H, W) in [0, 1] and labels (B,) -> attacked images of the same shape.
Attack: TypeAlias = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


class PartlyAttacked(NamedTuple):
    """Images (B, 3, H, W) and labels (B,), of which the last `attacked` ones are attacked."""

    images: torch.Tensor
    labels: torch.Tensor
    attacked: int


def least_batch(share: float) -> int:
    """Images of which a share is at least one; 1 where none is wanted."""
    return math.ceil(1 / share - 1e-9) if share > 0 else 1


def drawn_bits(bits: Sequence[Bits], generator: torch.Generator) -> Bits:
    """One bit-width, each as likely as another."""
    return bits[int(torch.randint(len(bits), (), generator=generator))]


def partly_attacked(images: torch.Tensor, labels: torch.Tensor, share: float, attack: Attack) -> PartlyAttacked:
    """Attack the last floor(share * B) images; with none of them `attack` is not called.

    Raises:
        TrainingError: a share above 0 of so few images is none.
    """
    # 0.29 * 100 is 28.999..., which must not round down to 28.
    attacked = math.floor(share * len(labels) + 1e-9)
    if share > 0 and not attacked:
        raise TrainingError(
            f"expected a batch_size of at least {least_batch(share)}, of which a share of {share:g} is "
            f"attacked, found {len(labels)}"
        )
    if not attacked:
        return PartlyAttacked(images, labels, 0)
    clean = len(labels) - attacked
    changed = attack(images[clean:], labels[clean:]).detach()
    return PartlyAttacked(torch.cat([images[:clean], changed]), labels, attacked)


def cross_entropies(at: Callable[[Bits], Network], bits: Sequence[Bits], batch: PartlyAttacked, term: str) -> Losses:
    """Mean cross-entropy of the clean part as `clean` and of the attacked part as `term`.

    Each is weighted by its share of the batch, so that they add up to the mean over all images, and averaged over
    the bit-widths. Both parts go through the network together; a part without images is left out.

    Args:
        at: the network at a width; asked for one after the other.
        bits: widths that are trained.
        batch: what they are trained on.
        term: name of the attacked part's loss.
    """
    clean, total = len(batch.labels) - batch.attacked, len(batch.labels)
    parts = {"clean": slice(0, clean), term: slice(clean, total)}
    means: dict[str, list[torch.Tensor]] = {name: [] for name, part in parts.items() if part.stop > part.start}
    for width in bits:
        logits = at(width)(batch.images)
        for name in means:
            part = parts[name]
            share = (part.stop - part.start) / total
            means[name].append(share * torch.nn.functional.cross_entropy(logits[part], batch.labels[part]))
    return {name: torch.stack(terms).mean() for name, terms in means.items()}


def ascended_images(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    start: torch.Tensor,
    *,
    epsilon: Extent,
    step_size: Extent,
    steps: int,
) -> torch.Tensor:
    """Climb the cross-entropy along the sign of its gradient, inside the ball and in [0, 1].

    Args:
        network: in the mode that it shall be attacked in; its parameters get no gradient.
        images: (B, 3, H, W) in [0, 1], the clean ones.
        labels: (B,) int64.
        start: (B, 3, H, W), a point of the ball.
        epsilon: largest change of a pixel; one for all, or one each.
        step_size: change of a pixel per step; one for all, or one each.
        steps: every one is taken.

    Returns:
        (B, 3, H, W), the last point, without a graph.
    """
    points = start
    for _ in range(steps):
        points = points.detach().requires_grad_()
        # A sum, because a batch's mean could underflow in half precision; a sign does not see the difference.
        likelihood = -torch.nn.functional.cross_entropy(network(points), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(likelihood, points)
        points = signed_step(points, gradient, images, step_size=step_size, epsilon=epsilon)
    return points.detach()


def fitting_side(size: Size, images: torch.Tensor) -> int:
    """Side in pixels of a square patch on images (B, 3, H, W).

    Raises:
        TrainingError: it does not fit.
    """
    height, width = images.shape[-2:]
    side = size.side(width)
    if side > min(height, width):
        raise TrainingError(
            f"expected a patch no larger than the training images of {height} x {width} pixels, found {side} x {side}; "
            "make its size smaller"
        )
    return side
