"""Integer codes of weights that lie on a grid: what a runtime stores of them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from qpatchbench.errors import QPatchBenchError

# A weight is code * scale * factor of BatchNorm, each product rounded to float32; codes of 8 bits then are off by 1e-5.
TOLERANCE = 1e-3


class WeightCodes(NamedTuple):
    """Weights as integers.

    Attributes:
        codes: int8, in the shape of the weights.
        scales: (C,) float32, one per output channel.
    """

    codes: torch.Tensor
    scales: torch.Tensor


def weight_codes(weight: torch.Tensor, bits: int, layer: str) -> WeightCodes:
    """Codes and scales with `codes * scales` equal to `weight` up to float32 rounding.

    The scale that made the weights is not stored with them, and BatchNorm multiplied it. It is found again from the
    largest weight of each channel, whose code is one of 1 .. 2^(bits - 1) - 1: the first at which all others of the
    channel are integers too.

    Args:
        weight: (C, ...) float32.
        bits: 2..8, symmetric around zero.
        layer: its name, for messages.

    Raises:
        QPatchBenchError: a channel lies on no such grid.
    """
    rows = weight.detach().flatten(1).double()
    peaks = rows.abs().amax(dim=1)
    scales = torch.ones(len(rows), dtype=torch.float64)
    open_ = peaks > 0
    for largest in range(2 ** (bits - 1) - 1, 0, -1):
        left = open_.nonzero().flatten()
        if not len(left):
            break
        tried = peaks[left] / largest
        codes = rows[left] / tried[:, None]
        fits = (codes - codes.round()).abs().amax(dim=1) < TOLERANCE
        found = left[fits]
        rounded = codes[fits].round()
        scales[found] = (rows[found] * rounded).sum(dim=1) / rounded.square().sum(dim=1)
        open_[found] = False
    if bool(open_.any()):
        channel = int(open_.nonzero()[0])
        raise QPatchBenchError(
            f"{layer}: expected weights on {2**bits - 1} equally spaced points around zero in every output channel, "
            f"found others in channel {channel}; an asymmetric grid (scale: min_max) has no integers to be stored as"
        )
    codes = (rows / scales[:, None]).round().reshape(weight.shape).to(torch.int8)
    return WeightCodes(codes, scales.float())
