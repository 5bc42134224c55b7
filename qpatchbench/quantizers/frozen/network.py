"""Deployed networks: weights stored on their grid, fixed activation quantizers, BatchNorm folded away."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.quantization.fake_quantization import code_range, fake_quantize, max_scale
from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.quantizers.trained.layers import FrozenLayer, SwitchableBatchNorm, float_weight, freeze_layer
from qpatchbench.quantizers.trained.switchable import switchable_layers
from qpatchbench.types import FLOAT_BITS


@torch.no_grad()
def freeze(module: nn.Module) -> None:
    """Fix a switchable network at its active bits, in place; the other widths are dropped.

    Eval mode, no gradients to parameters. Weights are quantized once, activation scales and signs are fixed.
    """
    for _, layer in list(switchable_layers(module)):
        weights, inputs = layer.weight_quantizer, layer.activation_quantizer
        freeze_layer(layer, layer.weight, weights.bits_at(weights.active), inputs.frozen())
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SwitchableBatchNorm):
                setattr(parent, name, child.current())
    settle(module)


@torch.no_grad()
def freeze_static(layer: nn.Module, weight_bits: int, activation: FrozenActivation) -> None:
    """Freeze a float layer: weights on the max-abs grid of each output channel, no training involved."""
    weight = float_weight(layer)
    if weight_bits == FLOAT_BITS:
        quantized: torch.Tensor = weight
    else:
        qmin, qmax = code_range(weight_bits, signed=True)
        quantized = fake_quantize(weight, max_scale(weight, qmax, 0), qmin, qmax, 0)
    freeze_layer(layer, quantized, weight_bits, activation)


def settle(module: nn.Module) -> None:
    """Eval mode, and no parameter requires a gradient."""
    module.eval().requires_grad_(False)


def frozen_layers(module: nn.Module) -> Iterator[tuple[str, FrozenLayer]]:
    """Names and layers that were frozen with quantizers."""
    for name, part in module.named_modules():
        if isinstance(part, FrozenLayer):
            yield name, part


def reject_empty(images: torch.Tensor, mode: str) -> None:
    """Refuse to calibrate on nothing."""
    if not len(images):
        raise QPatchBenchError(
            f"{mode} calibrates its activation ranges on images and there are none; set calibration_images of the "
            "dataset to at least 1"
        )
