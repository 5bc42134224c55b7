"""Audit of a frozen network's arithmetic: counted levels, not declared ones.

The audit covers what multiplies weights with activations. Softmax, LayerNorm and pooling run in floating point in every
network here; attention products and residual additions too, unless `ptq` has `scope: full`. `float_operations` counts
what a network computes so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.quantizers.frozen.network import frozen_layers
from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.quantizers.inspection.operators import counting, layer_around, outside_of
from qpatchbench.quantizers.trained.layers import FrozenLayer
from qpatchbench.types import FLOAT_BITS

IMAGE_BITS = 8
_MULTIPLYING = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.Embedding)


@dataclass(frozen=True)
class LayerAudit:
    """One layer that multiplies its inputs by weights.

    Attributes:
        name: module name.
        weight_bits, activation_bits: declared; 8 for the input of the first layer, which is the image.
        weight_levels: most distinct weights of one output channel, None if declared as float.
        activation_levels: most distinct inputs: of the tensor, or of one image for a run-time scale; None
            if declared as not rounded.
        signed: whether its activation codes include negative ones.
        multiplications: multiply-accumulates per image.
        declares: whether a quantizer froze it, which declared its widths; 32 bits among them. Else its widths are 32,
            and its levels, those of inputs by image, show whether it is quantized all the same.
        is_layer: else an operator that runs outside of all layers; it declares nothing.
    """

    name: str
    weight_bits: int
    activation_bits: int
    weight_levels: int | None
    activation_levels: int | None
    signed: bool
    multiplications: int
    declares: bool = True
    is_layer: bool = True


class EffectiveBits(NamedTuple):
    """Mean widths, weighted by multiply-accumulates."""

    weight: float
    activation: float


def audit(network: nn.Module, images: torch.Tensor) -> tuple[LayerAudit, ...]:
    """Count levels in the layers that a quantizer froze, in order of execution; empty for a float network.

    Args:
        network: what a quantizer deployed. One that has `members`, of which it uses some or all for an image, is
            audited member by member.
        images: (N, 3, H, W), run as one batch.
    """
    return tuple(row for row in operations(network, images) if row.declares)


@torch.no_grad()
def operations(network: nn.Module, images: torch.Tensor) -> tuple[LayerAudit, ...]:
    """Every layer that multiplies by weights, frozen or left in float, in order of execution; arguments as `audit`.

    At the end what multiplies by weights outside of layers, as operators that declare nothing.
    """
    members = getattr(network, "members", None)
    if isinstance(members, nn.ModuleDict | nn.ModuleList):
        return tuple(
            replace(row, name=f"members.{name}.{row.name}")
            for name, member in members.named_children()
            for row in operations(member, images)
        )
    layers: dict[nn.Module, str] = {
        part: name for name, part in network.named_modules() if isinstance(part, _MULTIPLYING)
    }
    found: dict[str, LayerAudit] = {}

    def look(
        module: nn.Module, arguments: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor], output: object
    ) -> None:
        name, received = layers[module], next(iter((*arguments, *named.values())))
        multiplications = _multiplications(module, received, output) // len(images)
        if name in found:
            multiplications += found[name].multiplications
        inputs = IMAGE_BITS if next(iter(found), name) == name else FLOAT_BITS
        if isinstance(module, FrozenLayer):
            quantizer = module.activation_quantizer
            found[name] = LayerAudit(
                name=name,
                weight_bits=module.weight_bits,
                activation_bits=IMAGE_BITS if inputs == IMAGE_BITS else quantizer.width,
                weight_levels=None if module.weight_bits == FLOAT_BITS else _levels(module.stored_weight),
                activation_levels=_activation_levels(quantizer, received),
                signed=quantizer.signed,
                multiplications=multiplications,
            )
        else:
            weights = [part for part in module.parameters(recurse=False) if part.ndim > 1]
            levels = max((_levels(part) for part in weights), default=None)
            seen = _levels(received)
            found[name] = LayerAudit(name, FLOAT_BITS, inputs, levels, seen, True, multiplications, declares=False)

    stored = {name: layer.stored_weight for layer, name in layers.items() if isinstance(layer, FrozenLayer)}

    def known(module: str, storage: int) -> bool:
        layer = layer_around(layers.values(), module)
        return layer is not None and (layer not in stored or storage == stored[layer].untyped_storage()._cdata)

    hooks = [layer.register_forward_hook(look, with_kwargs=True) for layer in layers]
    try:
        with evaluating(network), counting(network, images, known) as mode:
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    own = {name: row.multiplications * len(images) if row.declares else -1 for name, row in found.items()}
    outside = [
        LayerAudit(
            name=operator.name,
            weight_bits=FLOAT_BITS,
            activation_bits=FLOAT_BITS,
            weight_levels=operator.weight_levels,
            activation_levels=operator.activation_levels,
            signed=True,
            multiplications=max(1, operator.multiplications // len(images)),
            declares=False,
            is_layer=False,
        )
        for operator in outside_of(own, mode.found)
    ]
    return (*found.values(), *outside)


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


def _multiplications(module: nn.Module, inputs: torch.Tensor, output: object) -> int:
    """Multiply-accumulates with weights; of attention and recurrence all weights at every position of the output."""
    first = output[0] if isinstance(output, tuple) else output
    assert isinstance(first, torch.Tensor), "what multiplies by weights returns a tensor, or a tuple with one"
    if isinstance(module, nn.Embedding):
        return 0  # it looks weights up
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        weights = sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)
        return first.numel() // first.shape[-1] * weights
    assert isinstance(module.weight, torch.Tensor), "a convolution, linear or bilinear layer"
    spread = inputs if getattr(module, "transposed", False) else first
    return spread.numel() * module.weight[0].numel()


def _activation_levels(quantizer: FrozenActivation, inputs: torch.Tensor) -> int | None:
    if quantizer.width == FLOAT_BITS:
        return None
    quantized = quantizer(inputs)
    return _levels(quantized if quantizer.scale is None else (quantized,))


def _levels(tensors: Iterable[torch.Tensor]) -> int:
    return max(len(torch.unique(tensor)) for tensor in tensors)
