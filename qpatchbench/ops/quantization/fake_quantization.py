"""Uniform symmetric fake quantization: values stay floating point but lie on a grid of b-bit integers.

q = clamp(round(v * (1 / s)), qmin, qmax), v_hat = s * q with zero point 0 and rounding half to even, the arithmetic of
torch.fake_quantize_per_tensor_affine and ONNX QuantizeLinear. Gradients are straight-through and clipped: 1 where the
rounded code is in range, else 0 (Krishnamoorthi 2018, arXiv 1806.08342, section 3.1.1). Learned scales follow Esser et
al. 2020, Learned Step Size Quantization, arXiv 1902.08153: the same values, but a gradient that ends at the outermost
points, since they clip before they round. Everything can be differentiated twice.

`fake_quantize_between` is the one asymmetric grid: 2^b values from a lowest to a highest one, zero not among them in
general, with a straight-through gradient everywhere.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

# Scale of an all-zero tensor: positive, so that 0 quantizes to 0, and its reciprocal is finite in float32.
SMALLEST_SCALE = 1e-30

# Multiples of the max-abs scale that are tried, then multiples of the best of them, both in equal ratios.
_COARSE = tuple(0.04 * 1.24**step for step in range(16))
_FINE = tuple(1.24 ** (step / 7) for step in range(-6, 7))
_FINEST = tuple(1.24 ** (step / 84) for step in range(-6, 7))  # at 8 bits the error has a valley every per mille
_REFINEMENTS = 4


class CodeRange(NamedTuple):
    """Smallest and largest integer code, both inclusive."""

    qmin: int
    qmax: int


def code_range(bits: int, signed: bool) -> CodeRange:
    """Codes of `bits` bits: narrow and symmetric if signed, so that 0 is a code and -v mirrors v.

    >>> code_range(4, signed=True), code_range(4, signed=False)
    (CodeRange(qmin=-7, qmax=7), CodeRange(qmin=0, qmax=15))
    """
    if signed:
        largest = 2 ** (bits - 1) - 1
        return CodeRange(-largest, largest)
    return CodeRange(0, 2**bits - 1)


def fake_quantize(
    values: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int, channel_axis: int | None = None
) -> torch.Tensor:
    """Round `values` to the grid of a fixed scale; the scale receives no gradient.

    Computed in float32 (float64 for float64 values) and returned in the dtype of `values`. Agrees bit for bit with
    torch.fake_quantize_*_affine, whose CPU kernels are 5 to 10 times slower.

    Args:
        values: any shape.
        scale: () for all values, or (C,) along `channel_axis`; positive.
        qmin: smallest code.
        qmax: largest code.
        channel_axis: dimension of size C that has a scale per index, or None.
    """
    from qpatchbench.ops.quantization.straight_through import FixedScale

    wide = _widened(values)
    shaped = _broadcastable(scale.detach().to(wide.dtype), wide, channel_axis)
    result: torch.Tensor = FixedScale.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        wide, shaped, qmin, qmax
    )
    return result.to(values.dtype)


def fake_quantize_learned(
    values: torch.Tensor,
    scale: torch.Tensor,
    qmin: int,
    qmax: int,
    channel_axis: int | None = None,
    elements: int | None = None,
) -> torch.Tensor:
    """Round `values` to the grid of a learned scale: Esser et al. 2020, equations 1 to 3.

    The gradient of a value is 1 if qmin < v/s < qmax, else 0. That of the scale is round(v/s) - v/s where qmin < v/s <
    qmax, else the nearest code, summed over the values that share it and multiplied by 1 / sqrt(N * qmax).

    Args:
        values: any shape.
        scale: () or (C,) along `channel_axis`; positive.
        qmin: smallest code.
        qmax: largest code.
        channel_axis: dimension of size C that has a scale per index, or None.
        elements: N, by default the number of values that share a scale. Esser et al. count the features of
            one image for activations, so that the batch size does not change the step.
    """
    from qpatchbench.ops.quantization.straight_through import LearnedScale

    wide = _widened(values)
    shared = elements or max(1, wide.numel() // scale.numel())
    shaped = _broadcastable(scale.to(wide.dtype), wide, channel_axis)
    result: torch.Tensor = LearnedScale.apply(  # type: ignore[no-untyped-call]  # as above
        wide, shaped, qmin, qmax, 1 / math.sqrt(shared * qmax)
    )
    return result.to(values.dtype)


def fake_quantize_by_image(values: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    """Round every index of dimension 0 to the grid of its own max|v| / qmax, whose gradient is followed.

    The values of `fake_quantize` at `max_scale`, bit for bit. There the scale is a constant; here the largest value of
    an image also has the gradient of all others, as it moves the grid under them. The result is homogeneous, Q(c v) =
    c Q(v), and only this gradient satisfies Euler's <grad f, v> = f for f = <g, Q(v)>.

    Args:
        values: (B, ...) of any further shape.
        qmin: smallest code.
        qmax: largest code.
    """
    from qpatchbench.ops.quantization.straight_through import LearnedScale

    wide = _widened(values)
    scale = _broadcastable((wide.abs().flatten(1).amax(dim=1) / qmax).clamp_min(SMALLEST_SCALE), wide, 0)
    result: torch.Tensor = LearnedScale.apply(wide, scale, qmin, qmax, 1.0)  # type: ignore[no-untyped-call]  # as above
    return result.to(values.dtype)


def fake_quantize_between(
    values: torch.Tensor, limits: torch.Tensor, bits: int, channel_axis: int | None = None
) -> torch.Tensor:
    """Round `values` to 2^bits equally spaced points between two limits, which receive no gradient.

    Computed in float32 (float64 for float64 values) and returned in the dtype of `values`, whose gradient is 1
    everywhere, also outside of the range.

    Args:
        values: any shape.
        limits: (2,) lowest and highest point for all values, or (2, C) along `channel_axis`; where both are equal,
            everything becomes that value.
        bits: of the codes 0 .. 2^bits - 1.
        channel_axis: dimension of size C that has a range per index, or None.
    """
    from qpatchbench.ops.quantization.straight_through import Unclipped

    wide, largest = _widened(values), 2**bits - 1
    low, high = limits.detach().to(wide.dtype)
    scale = ((high - low) / largest).clamp_min(SMALLEST_SCALE)
    low, scale = (_broadcastable(part, wide, channel_axis) for part in (low, scale))
    result: torch.Tensor = Unclipped.apply(wide, low, scale, largest)  # type: ignore[no-untyped-call]  # as above
    return result.to(values.dtype)


def extremes(values: torch.Tensor, channel_axis: int | None = None) -> torch.Tensor:
    """Smallest and largest value, (2,) or (2, C) float."""
    found = torch.stack(_rows(values, channel_axis).aminmax(dim=1))
    return found.squeeze(1) if channel_axis is None else found


def max_scale(values: torch.Tensor, qmax: int, channel_axis: int | None = None) -> torch.Tensor:
    """Smallest scale that clips nothing: max|v| / qmax, () or (C,) float."""
    if channel_axis is None:
        lowest, highest = _widened(values.detach()).aminmax()  # half the time of abs and amax
        return (torch.maximum(-lowest, highest) / qmax).clamp_min(SMALLEST_SCALE)
    return _positive(_rows(values, channel_axis).abs().amax(dim=1) / qmax, channel_axis)


def mse_scale(values: torch.Tensor, qmin: int, qmax: int, channel_axis: int | None = None) -> torch.Tensor:
    """Scale that minimises the squared error sum((v - Q(v))^2), () or (C,) float.

    Ever finer grids of fractions of the max-abs scale find the basin; Lloyd's alternation (codes for a scale,
    then the least-squares scale sum(v q) / sum(q^2) for the codes; Lloyd 1982) descends in it.
    """
    rows = _rows(values, channel_axis)
    scale = rows.abs().amax(dim=1, keepdim=True).div(qmax).clamp_min(SMALLEST_SCALE)
    for fractions in (_COARSE, _FINE, _FINEST):
        scale = _best_fraction(rows, scale, fractions, qmin, qmax)
    for _ in range(_REFINEMENTS):
        codes = (rows * scale.reciprocal()).round_().clamp_(qmin, qmax)
        energy = codes.square().sum(dim=1, keepdim=True)
        refined = (rows * codes).sum(dim=1, keepdim=True) / energy.clamp_min(1)
        scale = torch.where(refined > SMALLEST_SCALE, refined, scale)
    return _positive(scale.squeeze(1), channel_axis)


def _best_fraction(
    rows: torch.Tensor, scale: torch.Tensor, fractions: tuple[float, ...], qmin: int, qmax: int
) -> torch.Tensor:
    best, least = scale, _squared_error(rows, scale, qmin, qmax)
    for fraction in fractions:
        candidate = (scale * fraction).clamp_min(SMALLEST_SCALE)
        found = _squared_error(rows, candidate, qmin, qmax)
        best, least = torch.where(found < least, candidate, best), torch.minimum(found, least)
    return best


def _squared_error(rows: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    grid = (rows * scale.reciprocal()).round_().clamp_(qmin, qmax).mul_(scale)
    return grid.sub_(rows).square_().sum(dim=1, keepdim=True)


def _rows(values: torch.Tensor, channel_axis: int | None) -> torch.Tensor:
    """One row per scale, float32 or float64, without a graph."""
    wide = _widened(values.detach())
    return wide.reshape(1, -1) if channel_axis is None else wide.movedim(channel_axis, 0).flatten(1)


def _positive(scale: torch.Tensor, channel_axis: int | None) -> torch.Tensor:
    scale = scale.clamp_min(SMALLEST_SCALE)
    return scale.squeeze(0) if channel_axis is None else scale


def _widened(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _broadcastable(scale: torch.Tensor, values: torch.Tensor, channel_axis: int | None) -> torch.Tensor:
    if channel_axis is None:
        return scale
    return scale.view([-1 if axis == channel_axis % values.ndim else 1 for axis in range(values.ndim)])
