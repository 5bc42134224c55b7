"""What a frozen network really computes with: counted levels, not declared ones.

Attention products, softmax, LayerNorm, residual additions and pooling run in floating point in every network here; the
audit covers what multiplies weights with activations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from qpatchbench.quantizers.frozen import frozen_layers
from qpatchbench.quantizers.frozen_activation import FrozenActivation
from qpatchbench.quantizers.layers import FrozenLayer
from qpatchbench.quantizers.observing import evaluating
from qpatchbench.types import FLOAT_BITS

IMAGE_BITS = 8
_MULTIPLYING = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.Embedding)


@dataclass(frozen=True)
class LayerAudit:
    """One layer that stores quantized weights or quantizes its inputs.

    Attributes:
        name: module name.
        weight_bits, activation_bits: declared; 8 for the input of the first layer, which is the image.
        weight_levels: most distinct weights of one output channel, None if float.
        activation_levels: most distinct inputs: of the tensor, or of one image for a run-time scale; None
            if not rounded.
        signed: whether its activation codes include negative ones.
        multiplications: multiply-accumulates per image.
    """

    name: str
    weight_bits: int
    activation_bits: int
    weight_levels: int | None
    activation_levels: int | None
    signed: bool
    multiplications: int


class EffectiveBits(NamedTuple):
    """Mean widths, weighted by multiply-accumulates."""

    weight: float
    activation: float


@torch.no_grad()
def audit(network: nn.Module, images: torch.Tensor) -> tuple[LayerAudit, ...]:
    """Count levels in a frozen network, in order of execution.

    Args:
        network: what a quantizer deployed; empty result for a float network. One that has `members`, of which it uses
            some or all for an image, is audited member by member.
        images: (N, 3, H, W), run as one batch.
    """
    members = getattr(network, "members", None)
    if isinstance(members, nn.ModuleDict | nn.ModuleList):
        return tuple(
            replace(row, name=f"members.{name}.{row.name}")
            for name, member in members.named_children()
            for row in audit(member, images)
        )
    layers: dict[nn.Module, tuple[str, FrozenLayer]] = {layer: (name, layer) for name, layer in frozen_layers(network)}
    found: dict[str, LayerAudit] = {}

    def look(module: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        name, layer = layers[module]
        weight = layer.stored_weight
        multiplications = output.numel() // len(images) * weight[0].numel()
        if name in found:
            multiplications += found[name].multiplications
        is_first = next(iter(found), name) == name
        found[name] = LayerAudit(
            name=name,
            weight_bits=layer.weight_bits,
            activation_bits=IMAGE_BITS if is_first else layer.activation_quantizer.width,
            weight_levels=None if layer.weight_bits == FLOAT_BITS else _levels(weight),
            activation_levels=_activation_levels(layer.activation_quantizer, arguments[0]),
            signed=layer.activation_quantizer.signed,
            multiplications=multiplications,
        )

    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        with evaluating(network):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(found.values())


def unquantized_operations(network: nn.Module) -> tuple[str, ...]:
    """Names of the modules that multiply by float weights."""
    quantized = {name for name, layer in frozen_layers(network) if layer.weight_bits != FLOAT_BITS}
    return tuple(
        name for name, part in network.named_modules() if isinstance(part, _MULTIPLYING) and name not in quantized
    )


def effective_bits(layers: Iterable[LayerAudit]) -> EffectiveBits:
    """Mean widths of audited layers, weighted by multiply-accumulates."""
    rows = tuple(layers)
    total = sum(row.multiplications for row in rows)
    return EffectiveBits(
        sum(row.weight_bits * row.multiplications for row in rows) / total,
        sum(row.activation_bits * row.multiplications for row in rows) / total,
    )


def _activation_levels(quantizer: FrozenActivation, inputs: torch.Tensor) -> int | None:
    if quantizer.width == FLOAT_BITS:
        return None
    quantized = quantizer(inputs)
    return _levels(quantized if quantizer.scale is None else (quantized,))


def _levels(tensors: Iterable[torch.Tensor]) -> int:
    return max(len(torch.unique(tensor)) for tensor in tensors)
