"""Grids of the layers' inputs, from calibration images, and how many bits each layer has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch

from qpatchbench.ops.quantization.fake_quantization import SMALLEST_SCALE, code_range, mse_scale
from qpatchbench.ops.quantization.ranges import CodeGrid, covering_grid, least_squares_grid
from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.quantizers.inspection.inputs import Measure, Seen, observe_inputs
from qpatchbench.types import FLOAT_BITS, Bits

SAMPLE = 2**13  # values of a batch from which the grid of least squared error is found


class GridRules(Protocol):
    """How grids arise: fields of the quantizer, where each is described."""

    @property
    def calibration(self) -> Literal["minmax", "percentile", "mse"]:
        """Which range of the activations."""

    @property
    def percentile(self) -> float:
        """Of |x|, %."""

    @property
    def asymmetric(self) -> bool:
        """Whether there are zero points."""

    @property
    def first_last(self) -> Literal["same", "eight", "float"]:
        """Bits of the first and the last layer."""


class Planned(NamedTuple):
    """What one layer shall become."""

    weight_bits: int
    activation: FrozenActivation


def plan_layers(
    module: torch.nn.Module, batches: Sequence[torch.Tensor], bits: Bits, settings: GridRules
) -> dict[str, Planned]:
    """Bits and activation quantizer of every layer, in order of execution.

    Args:
        module: float network.
        batches: calibration images (B, 3, H, W).
        bits: of all layers, except as `first_last` says and for the first input, which is the 8-bit image.
        settings: how ranges arise.
    """
    seen = observe_inputs(module, batches, lambda name: measures(settings))
    names = list(seen)
    plan: dict[str, Planned] = {}
    for name in names:
        weight, activation = bits.weight, bits.activation
        if settings.first_last != "same" and name in (names[0], names[-1]):
            least = 8 if settings.first_last == "eight" else FLOAT_BITS
            weight, activation = max(weight, least), max(activation, least)
        input_bits = FLOAT_BITS if name == names[0] else activation
        plan[name] = Planned(weight, activation_quantizer(seen[name], input_bits, settings))
    return plan


def measures(settings: GridRules) -> dict[str, Measure]:
    """What is measured of each batch of inputs."""
    if settings.calibration == "mse":
        return {"sample": _sample, "limits": lambda inputs: torch.stack(inputs.float().aminmax())}
    if settings.asymmetric:
        return {"limits": lambda inputs: _limits(inputs, settings)}
    return {"range": lambda inputs: _range(inputs, settings)}


def activation_quantizer(seen: Seen, bits: int, settings: GridRules) -> FrozenActivation:
    """A fixed grid for inputs that were measured with `measures`.

    Inputs that never were negative have the codes 0 .. 2^b - 1; others are symmetric, or asymmetric if so set.
    """
    if bits == FLOAT_BITS:
        return FrozenActivation(bits, seen.signed, None)
    codes = code_range(bits, seen.signed)
    shifted = settings.asymmetric and seen.signed
    if settings.calibration == "mse":
        values = torch.cat(seen.measures["sample"])
        grid = least_squares_grid(values, bits) if shifted else CodeGrid(mse_scale(values, *codes), codes)
    elif settings.asymmetric:
        limits = torch.stack(seen.measures["limits"])
        low, high = limits.mean(0) if settings.calibration == "percentile" else (limits[:, 0].min(), limits[:, 1].max())
        scale = (high / codes.qmax).clamp_min(SMALLEST_SCALE)
        grid = covering_grid(low, high, bits) if shifted else CodeGrid(scale, codes)
    else:
        ranges = torch.stack(seen.measures["range"])
        limit = ranges.max() if settings.calibration == "minmax" else ranges.mean()
        grid = CodeGrid((limit / codes.qmax).clamp_min(SMALLEST_SCALE), codes)
    return FrozenActivation(bits, seen.signed, grid.scale, grid.codes if shifted else None)


def _range(inputs: torch.Tensor, settings: GridRules) -> torch.Tensor:
    """Largest |x| of one batch, or its percentile (nearest rank, so that it is one of the values)."""
    magnitudes = inputs.float().abs().flatten()
    if settings.calibration == "minmax":
        return magnitudes.max()
    return magnitudes.kthvalue(_rank(settings.percentile, magnitudes.numel())).values


def _limits(inputs: torch.Tensor, settings: GridRules) -> torch.Tensor:
    """Smallest and largest x of one batch, or what leaves the percentile's rest out on either side; (2,)."""
    values = inputs.float().flatten()
    if settings.calibration == "minmax":
        return torch.stack(values.aminmax())
    rank = _rank(settings.percentile, values.numel())
    return torch.stack([values.kthvalue(len(values) + 1 - rank).values, values.kthvalue(rank).values])


def _rank(percentile: float, count: int) -> int:
    return max(1, math.ceil(percentile / 100 * count))


def _sample(inputs: torch.Tensor) -> torch.Tensor:
    """Values drawn with replacement, the same places for every batch of a shape; (SAMPLE,)."""
    places = torch.randint(inputs.numel(), (SAMPLE,), generator=torch.Generator().manual_seed(0))
    return inputs.float().flatten()[places.to(inputs.device)]
