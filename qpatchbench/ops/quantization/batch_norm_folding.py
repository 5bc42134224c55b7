"""BatchNorm of fixed statistics as a factor per output channel and a shift of the layer before it.

Jacob et al. 2018, arXiv 1712.05877, section 3.2, but after the weights are quantized: only a factor per output channel
moves, so the integer codes stay what they were.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Affine(NamedTuple):
    """BatchNorm in eval mode: (x - mean) / sqrt(variance + epsilon) * gain + shift.

    Attributes:
        mean, variance: (C,) float, the running statistics.
        epsilon: added to the variance.
        gain, shift: (C,) float; None for 1 and 0.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    epsilon: float
    gain: torch.Tensor | None
    shift: torch.Tensor | None


def folded(
    weight: torch.Tensor, bias: torch.Tensor | None, norm: Affine, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a layer that answers as itself and the BatchNorm behind it do.

    Args:
        weight: (C, ...) float.
        bias: (C,) float, or None for 0.
        norm: what stands behind the layer.
        dtype: in which the factors are computed and applied.

    Returns:
        Shapes and dtype of the weight and of the shift, (C, ...) and (C,).
    """
    factor = torch.rsqrt(norm.variance.to(dtype) + norm.epsilon)
    factor = factor if norm.gain is None else factor * norm.gain.to(dtype)
    shift = -norm.mean.to(dtype) * factor
    shift = shift if norm.shift is None else shift + norm.shift.to(dtype)
    shift = shift if bias is None else shift + bias.to(dtype) * factor
    scaled = weight.to(dtype) * factor.view(-1, *[1] * (weight.ndim - 1))
    return scaled.to(weight.dtype), shift.to(weight.dtype)
