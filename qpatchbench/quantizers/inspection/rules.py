"""The rule by which each tensor of a deployed network is rounded, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from qpatchbench.ops.quantization.fake_quantization import code_range
from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.quantizers.frozen.network import frozen_layers
from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.quantizers.trained.layers import FrozenLayer
from qpatchbench.types import FLOAT_BITS


class _Points(NamedTuple):
    """Lowest and highest point of a grid, and whether they mirror each other."""

    low: float
    high: float
    symmetric: bool


@dataclass(frozen=True)
class TensorRule:
    """How one tensor is rounded.

    Attributes:
        layer: module name.
        tensor: "weight" or "input".
        bits: declared; 32 = not rounded.
        symmetric: whether the grid mirrors itself around zero; None where it is not rounded.
        granularity: which values share a scale: "output channel", "tensor" or "image"; "" where it is not rounded.
        low, high: ends of the grid of an input, smallest and largest value otherwise.
        levels: most distinct values of those that share a scale; None where it is not rounded.
        error: root mean square of what rounding changed, relative to that of the values; of weights also what
            fitting them to their inputs changed. None where the float values are not known.
    """

    layer: str
    tensor: str
    bits: int
    symmetric: bool | None
    granularity: str
    low: float
    high: float
    levels: int | None
    error: float | None


@torch.no_grad()
def tensor_rules(network: nn.Module, images: torch.Tensor) -> tuple[TensorRule, ...]:
    """Input and weight of every layer that a quantizer froze, in order of execution; nothing for a float network.

    Args:
        network: what a quantizer deployed.
        images: (N, 3, H, W) in [0, 1], run as one batch, on which inputs are looked at.
    """
    names: dict[nn.Module, str] = {layer: name for name, layer in frozen_layers(network)}
    found: dict[str, tuple[TensorRule, TensorRule]] = {}

    def look(layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, FrozenLayer), "hooked on frozen layers only"
        name = names[layer]
        found.setdefault(name, (_of_input(name, layer.activation_quantizer, arguments[0]), _of_weight(name, layer)))

    hooks = [layer.register_forward_pre_hook(look) for layer in names]
    try:
        with evaluating(network):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(rule for pair in found.values() for rule in pair)


def _of_weight(name: str, layer: FrozenLayer) -> TensorRule:
    weight = layer.stored_weight.detach()
    low, high = float(weight.min()), float(weight.max())
    if layer.weight_bits == FLOAT_BITS:
        return TensorRule(name, "weight", FLOAT_BITS, None, "", low, high, None, None)
    levels = max(len(torch.unique(row)) for row in weight)
    return TensorRule(
        name, "weight", layer.weight_bits, layer.mirrored, "output channel", low, high, levels, layer.weight_error
    )


def _of_input(name: str, quantizer: FrozenActivation, inputs: torch.Tensor) -> TensorRule:
    if quantizer.width == FLOAT_BITS:
        low, high = float(inputs.min()), float(inputs.max())
        return TensorRule(name, "input", FLOAT_BITS, None, "", low, high, None, None)
    rounded = quantizer(inputs)
    error = float((rounded - inputs).norm() / inputs.norm().clamp_min(1e-30))
    per_image = quantizer.scale is None
    levels = max(len(torch.unique(part)) for part in (rounded if per_image else (rounded,)))
    points = _points(quantizer, inputs)
    granularity = "image" if per_image else "tensor"
    return TensorRule(
        name, "input", quantizer.width, points.symmetric, granularity, points.low, points.high, levels, error
    )


def _points(quantizer: FrozenActivation, inputs: torch.Tensor) -> _Points:
    if quantizer.scale is None:
        reach = float(inputs.abs().max())
        return _Points(-reach if quantizer.signed else 0.0, reach, quantizer.signed)
    if quantizer.scale.ndim:
        low, high = quantizer.scale.tolist()
        return _Points(low, high, False)
    codes = quantizer.codes or code_range(quantizer.width, quantizer.signed)
    step = float(quantizer.scale)
    return _Points(step * codes.qmin, step * codes.qmax, codes.qmin == -codes.qmax)
