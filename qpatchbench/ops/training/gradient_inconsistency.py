"""Gradients made inconsistent (QADT-R: Guesmi, Ouni, Shafique 2025, arXiv 2503.07058, equations 4 and 5).

    g~ = g + alpha * R(g),    R(g) = beta * g / ||g|| + epsilon + gamma * xi,    xi ~ N(0, sigma^2)

The first part of R is parallel to g: it only lengthens the step, by alpha * beta. What turns the gradient is the noise,
of norm alpha * gamma * sigma * sqrt(n) for n elements, whatever the size of g: with the paper's values 1.6 for 100,000
weights, often more than ||g||. `relative` noise has a fixed ratio gamma * sigma to ||g|| instead.
"""  # noqa: D214 (a formula)

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch


class Inconsistency(NamedTuple):
    """The letters of both equations, and what they leave open.

    Attributes:
        strength: alpha, at least 0.
        parallel: beta.
        noise: gamma.
        deviation: sigma, at least 0.
        epsilon: at least 0.
        epsilon_at: denominator, g / (||g|| + epsilon), for which "prevents numerical instability" asks; or sum, as
            the equation is printed: then it is a constant added to every element, and 0 / 0 counts as 0.
        norm: ||g|| of each tensor, or of all of them together.
        noise_scaling: literal as above, or relative: xi times the root mean square ||g|| / sqrt(n) of its tensor.
    """

    strength: float
    parallel: float
    noise: float
    deviation: float
    epsilon: float
    epsilon_at: Literal["denominator", "sum"] = "denominator"
    norm: Literal["tensor", "network"] = "tensor"
    noise_scaling: Literal["literal", "relative"] = "literal"


def inconsistent(
    gradients: Sequence[torch.Tensor], inconsistency: Inconsistency, generator: torch.Generator
) -> list[torch.Tensor]:
    """Equation 4 for tensors of any shape; new ones, the very same objects where the strength is 0.

    Args:
        gradients: floating point, without a graph.
        inconsistency: the parameters.
        generator: on the CPU; draws one number per element, tensor after tensor.
    """
    if inconsistency.strength == 0:
        return list(gradients)
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    whole = torch.linalg.vector_norm(torch.stack(norms)) if norms else None
    changed = []
    for gradient, own, drawn in zip(gradients, norms, _noises(gradients, generator), strict=True):
        norm = own if inconsistency.norm == "tensor" or whole is None else whole
        noise = drawn * inconsistency.deviation
        if inconsistency.noise_scaling == "relative":
            noise = noise * (own / max(1, gradient.numel()) ** 0.5)
        parallel = inconsistency.parallel * _direction(gradient, norm, inconsistency)
        changed.append(gradient + inconsistency.strength * (parallel + inconsistency.noise * noise))
    return changed


def _noises(gradients: Sequence[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
    """Standard normal numbers in the shape of every gradient; a device gets them all at once."""
    drawn = [torch.randn(gradient.shape, generator=generator) for gradient in gradients]
    if not gradients or gradients[0].device.type == "cpu":
        return [noise.to(gradient) for noise, gradient in zip(drawn, gradients, strict=True)]
    there = torch.cat([noise.flatten() for noise in drawn]).to(gradients[0].device)
    parts = torch.split(there, [noise.numel() for noise in drawn])
    return [part.view(gradient.shape).to(gradient) for part, gradient in zip(parts, gradients, strict=True)]


def _direction(gradient: torch.Tensor, norm: torch.Tensor, inconsistency: Inconsistency) -> torch.Tensor:
    if inconsistency.epsilon_at == "denominator":
        # Without epsilon too, a gradient of zero stays zero.
        return gradient / (norm + inconsistency.epsilon).clamp(min=torch.finfo(gradient.dtype).tiny)
    unit = gradient / norm.clamp(min=torch.finfo(gradient.dtype).tiny)
    return unit + inconsistency.epsilon
