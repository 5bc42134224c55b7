"""Ranges of activations whose zero point is an integer: the clipped extremes, or least squared error.

Jacob et al. 2018, arXiv 1712.05877, section 2.1: value = scale * (code - zero point), codes 0 .. 2^bits - 1. Counted
from the zero point these are the codes -zero_point .. 2^bits - 1 - zero_point of a symmetric grid, so that the
arithmetic of `fake_quantize` serves both, and 0 is always a point.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from qpatchbench.ops.quantization.fake_quantization import SMALLEST_SCALE, CodeRange, fake_quantize, mse_scale

_EXHAUSTIVE = 5  # bits up to which every zero point is tried
_TRIED = 33  # zero points tried above


class CodeGrid(NamedTuple):
    """The points scale * code for all integer codes of a range.

    Attributes:
        scale: () float32.
        codes: smallest and largest code, counted from the zero point.
    """

    scale: torch.Tensor
    codes: CodeRange


def codes_from(zero_point: int, bits: int) -> CodeRange:
    """The 2^bits codes of which `zero_point` lie below zero.

    >>> codes_from(3, bits=4)
    CodeRange(qmin=-3, qmax=12)
    """
    return CodeRange(-zero_point, 2**bits - 1 - zero_point)


def covering_grid(low: torch.Tensor, high: torch.Tensor, bits: int) -> CodeGrid:
    """The grid from the lowest to the highest value, both () float, shifted by at most half a step so that 0 is on it.

    0 is covered even where it does not lie between them.
    """
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / (2**bits - 1)).clamp_min(SMALLEST_SCALE)
    return CodeGrid(scale, codes_from(int((-low / scale).round()), bits))


def least_squares_grid(values: torch.Tensor, bits: int) -> CodeGrid:
    """The grid with the least sum of squared errors over `values`, of any shape.

    For a given zero point the scale is that of `mse_scale`. Up to 5 bits every zero point is tried; above, 33 of them
    around that of the covering grid, because neighbours differ little there.
    """
    covering = covering_grid(values.min(), values.max(), bits)
    start, largest = -covering.codes.qmin, 2**bits - 1
    reach = largest if bits <= _EXHAUSTIVE else 2**bits // 8
    step = 1 if bits <= _EXHAUSTIVE else max(1, 2 * reach // (_TRIED - 1))
    tried = {start, *range(max(0, start - reach), min(largest, start + reach) + 1, step)}
    best, least = covering, squared_error(values, covering)
    for zero_point in sorted(tried):
        grid = CodeGrid(_scale(values, codes_from(zero_point, bits)), codes_from(zero_point, bits))
        error = squared_error(values, grid)
        if error < least:
            best, least = grid, error
    return best


def squared_error(values: torch.Tensor, grid: CodeGrid) -> float:
    """Sum of squared errors of rounding `values` to a grid."""
    return float((fake_quantize(values, grid.scale, *grid.codes) - values).square().sum())


def _scale(values: torch.Tensor, codes: CodeRange) -> torch.Tensor:
    """`mse_scale`, which wants the larger side to be the positive one."""
    if codes.qmax >= -codes.qmin:
        return mse_scale(values, *codes)
    return mse_scale(-values, -codes.qmax, -codes.qmin)
