"""One set of weights that answers at several bit-widths.

    prepare(module, bits, settings)       float network -> switchable, in place
    initialize(module, images)            scales and signs from held-out images
    set_bits(module, bits)                which width the next forward pass uses

At 32 bits nothing is touched: outputs equal the float network's bit for bit. BatchNorm of every width starts as a
copy of the float one. `initialize` does not re-estimate its statistics: in training mode BatchNorm uses the
batch's, and with momentum 0.1 the running ones forget their start within 50 steps (0.9^50 = 0.5 %). A network that
is evaluated before it is trained wants `recalibrate_batch_norm`.
"""  # noqa: D214

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.inspection.inputs import Measure, in_batches, observe_inputs
from qpatchbench.quantizers.trained.batch_norm_statistics import (
    active_batch_norms,
    estimate_statistics,
    plausible_statistics,
)
from qpatchbench.quantizers.trained.fake_quantizers import ActivationQuantizer, FirstLast, Role, Scale, WeightQuantizer
from qpatchbench.quantizers.trained.layers import (
    QuantizedLayer,
    SwitchableBatchNorm,
    batch_norms,
    float_weight,
    is_shortcut,
    quantizable,
    quantize_layer,
    switch_to,
)
from qpatchbench.types import FLOAT, Bits

_ADDED = (".weight_quantizer.", ".activation_quantizer.")


@runtime_checkable
class Settings(Protocol):
    """How fake quantizers are trained; `qat` is one."""

    @property
    def scale(self) -> Scale:
        """Scale mode."""

    @property
    def first_last(self) -> FirstLast:
        """Width of the first and last layer."""

    @property
    def batch_norm(self) -> str:
        """Switchable or shared."""


def prepare(module: nn.Module, bits: tuple[Bits, ...], settings: object) -> None:
    """Make a float network switchable, in place; `initialize` or `load_state_dict` must follow.

    Args:
        module: float network; names in its state dict stay, but BatchNorm's gain ".at_bits.<bits>".
        bits: widths that share the weights; 32 need not be among them.
        settings: `Settings`, for example the quantizer `qat`.

    Raises:
        QPatchBenchError: the settings are no `Settings`, or there is nothing to quantize.
    """
    if not isinstance(settings, Settings):
        raise QPatchBenchError(
            f"{settings!r} cannot be trained: expected the fields scale, first_last and batch_norm, as in qat"
        )
    layers = list(quantizable(module))
    if not layers or any(isinstance(layer, QuantizedLayer) for _, layer in layers):
        found = "none" if not layers else "a network that is prepared already"
        raise QPatchBenchError(f"expected a float network with Conv2d or Linear layers, found {found}")
    for _, layer in layers:
        policy = (bits, settings.scale, settings.first_last, is_shortcut(layer))
        quantize_layer(layer, WeightQuantizer(len(float_weight(layer)), *policy), ActivationQuantizer(*policy))
    if settings.batch_norm == "switchable":
        for parent, name, norm in batch_norms(module):
            setattr(parent, name, SwitchableBatchNorm(norm, bits))
    module.switchable_bits = bits  # type: ignore[assignment]  # torch types attributes as tensors or modules


def set_bits(module: nn.Module, bits: Bits) -> None:
    """Use `bits` from the next forward pass on.

    Raises:
        QPatchBenchError: the network was not prepared for them.
    """
    prepared: tuple[Bits, ...] = getattr(module, "switchable_bits", ())
    if bits not in prepared:
        available = ", ".join(map(str, prepared)) or "none: the network is not prepared"
        raise QPatchBenchError(f"network has no quantizers for {bits} bits. Available: {available}")
    switch_to(module, bits)


@torch.no_grad()
def initialize(module: nn.Module, images: torch.Tensor, chosen: tuple[Bits, ...] | None = None) -> None:
    """Set signs, activation scales and learned scales of the chosen widths from the float path, in eval mode.

    BatchNorm of a network that was never trained takes the statistics of the images meanwhile.

    Args:
        module: prepared network; its mode and active bits stay.
        images: (N, 3, H, W) float32 in [0, 1], held out; N >= 1.
        chosen: widths whose scales are set, None for all; the others, and signs that are known, stay.

    Raises:
        QPatchBenchError: no images, or a layer that never runs on them.
    """
    layers = dict(switchable_layers(module))
    active = next(iter(layers.values())).activation_quantizer.active
    switch_to(module, FLOAT)
    batches = in_batches(images)
    with plausible_statistics(module, batches):
        # Signs come first, because what a batch says about a scale depends on them.
        seen = observe_inputs(module, batches, lambda name: {})
        order = list(seen)
        for name, layer in layers.items():
            # A width that joins later must not change what the others have learned to expect.
            known = layer.activation_quantizer.role if chosen is not None else None
            role = known or Role(name == order[0], name == order[-1], seen[name].signed)
            layer.weight_quantizer.initialize(layer.raw_weight, role, chosen)
            layer.activation_quantizer.assign(role, layer.raw_weight)
        seen = observe_inputs(module, batches, lambda name: _wanted(layers[name].activation_quantizer))
    for name, layer in layers.items():
        for bits in layer.activation_quantizer.quantized_bits():
            if chosen is not None and bits not in chosen:
                continue
            layer.activation_quantizer.scale_at(bits).copy_(seen[name].mean(str(bits)))
    switch_to(module, active)


@torch.no_grad()
def recalibrate_batch_norm(module: nn.Module, bits: Bits, images: torch.Tensor) -> None:
    """Re-estimate the running statistics of the BatchNorm that `bits` uses, as cumulative means over batches.

    Scales and all other statistics stay; so do mode and active bits.
    """
    active = next(switchable_layers(module))[1].activation_quantizer.active
    set_bits(module, bits)
    estimate_statistics(module, active_batch_norms(module), in_batches(images))
    switch_to(module, active)


def float_state(module: nn.Module, bits: Bits = FLOAT) -> dict[str, torch.Tensor]:
    """State dict of the float architecture: raw weights, and the BatchNorm of `bits`."""
    return float_part(module.state_dict(), bits)


def float_part(state: Mapping[str, torch.Tensor], bits: Bits = FLOAT) -> dict[str, torch.Tensor]:
    """The float architecture's tensors within the state dict of a switchable network."""
    chosen = f".at_bits.{bits}."
    return {
        name.replace(chosen, "."): tensor
        for name, tensor in state.items()
        if not any(added in f".{name}" for added in _ADDED) and (chosen in name or ".at_bits." not in name)
    }


def load_float_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load a float architecture's state dict into a switchable network: every width's BatchNorm gets the float one.

    Scales are left alone; `initialize` sets them.
    """
    names = [name for name in module.state_dict() if not any(added in f".{name}" for added in _ADDED)]
    wanted = {name: ".".join(_without_bits(name.split("."))) for name in names}
    missing = sorted(set(wanted.values()) - set(state))
    unexpected = sorted(set(state) - set(wanted.values()))
    if missing or unexpected:
        raise QPatchBenchError(
            f"float state does not fit: {len(missing)} tensors are missing, first {missing[:1]}, "
            f"{len(unexpected)} are unexpected, first {unexpected[:1]}"
        )
    module.load_state_dict({name: state[source] for name, source in wanted.items()}, strict=False)


def switchable_layers(module: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """Names and layers that have quantizers.

    Raises:
        QPatchBenchError: the network was not prepared.
    """
    layers = [(name, part) for name, part in module.named_modules() if isinstance(part, QuantizedLayer)]
    if not layers:
        raise QPatchBenchError("network has no quantizers. Expected prepare(module, bits, settings) before")
    yield from layers


def _wanted(quantizer: ActivationQuantizer) -> dict[str, Measure]:
    def measure(bits: Bits) -> Measure:
        return lambda inputs: quantizer.observed_scale(inputs, bits)

    return {str(bits): measure(bits) for bits in quantizer.quantized_bits()}


def _without_bits(parts: list[str]) -> list[str]:
    if "at_bits" not in parts:
        return parts
    index = parts.index("at_bits")
    return parts[:index] + parts[index + 2 :]
