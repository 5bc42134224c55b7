"""The gradient of each image's own cross-entropy, precise even where the network is sure of its answer."""

from __future__ import annotations

from typing import NamedTuple

import torch


class LossGradient(NamedTuple):
    """Of B images, (B, 3, H, W) each, without a graph.

    Attributes:
        gradient: of the cross-entropy of an image with its label.
        direction: the same, each image's divided by its largest absolute value; 0 where there is no slope. It exists
            where the gradient itself is too small for single precision.
    """

    gradient: torch.Tensor
    direction: torch.Tensor


def loss_gradient(logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> LossGradient:
    """Differentiate the cross-entropy of `logits` with respect to `images`.

    Args:
        logits: (B, K), with their graph.
        images: (B, 3, H, W) that the logits came from and that require a gradient.
        labels: (B,) class ids.
    """
    # Cross-entropy is log(1 + exp(d)), so its gradient is that of d times sigmoid(d). Where the answer is sure, its
    # probability is 1 in single precision, and the gradient of the cross-entropy itself would lack a term.
    sought = labels.view(-1, 1)
    others = logits.scatter(1, sought, -torch.inf).logsumexp(dim=1)
    difference = others - logits.gather(1, sought).squeeze(1)
    (slope,) = torch.autograd.grad(difference.sum(), images)
    gradient = difference.detach().sigmoid().view(-1, 1, 1, 1) * slope
    # What a cosine takes for zero is an absolute size, and a direction has none.
    largest = slope.flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1)
    return LossGradient(gradient, slope / torch.where(largest > 0, largest, 1))
