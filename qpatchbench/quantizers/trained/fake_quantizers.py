"""Trainable fake quantizers of one layer: a weight and an activation quantizer, each with a scale per bit-width.

Scale modes (`scale`):
- ema: weights max|w| per channel, fresh on every forward pass, because a moving average of weights would only lag
  behind them; activations an exponential moving average of max|x| (Krishnamoorthi 2018, arXiv 1806.08342, section 2.5);
- mse: the same with the scale of least squared error in place of the max-abs scale; slow for weights;
- lsq: learned (Esser et al. 2020, arXiv 1902.08153), from the scale of least squared error on. Esser et al. start at
  2 mean|v| / sqrt(qmax), one rule for ReLU outputs and Gaussian weights: at 2 bits the relative squared error of the
  inputs of a CIFAR ResNet-20 is then 17 %, the least is 6 %, and what is lost at the start stays lost for long;
- paper: lsq at 4 bits and below, ema above. At 2 bits a max-abs scale would round 84 to 94 % of Gaussian
  weights to zero (fan-in 144 to 4608);
- min_max: as in the code of Double-Win Quant (Fu et al. 2021, github.com/GATECH-EIC/Double-Win-Quant). Asymmetric: 2^b
  points from the smallest to the largest value, straight-through also where values are clipped. Weights per channel,
  afresh on every forward pass; activations by the batch's own range in training and by a moving average of it in
  evaluation, one average that all bit-widths share, nine tenths of it the newest batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.quantization.fake_quantization import (
    SMALLEST_SCALE,
    code_range,
    extremes,
    fake_quantize,
    fake_quantize_between,
    fake_quantize_learned,
    max_scale,
    mse_scale,
)
from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.types import FLOAT, FLOAT_BITS, Bits

Scale = Literal["paper", "ema", "mse", "lsq", "min_max"]
FirstLast = Literal["same", "eight", "float"]

EMA_MOMENTUM = 0.01  # share of the newest batch; torch.ao's averaging_constant
MIN_MAX_MOMENTUM = 0.9  # the same for min_max: the code keeps a tenth of the old range
LARGEST_LEARNED = 4  # bits up to which `paper` learns scales
_SAMPLE = 2**16  # values from which a batch's MSE scale is estimated


@dataclass(frozen=True)
class Role:
    """What a layer's position and its inputs on the initialisation images decide.

    Attributes:
        first, last: in order of execution. The input of the first layer is the 8-bit image, and is not quantized.
        signed: whether its inputs were ever negative.
    """

    first: bool
    last: bool
    signed: bool


class _FakeQuantizer(nn.Module):
    """Scales by name `scale_<bits>`: a parameter if learned, a buffer if observed, absent if computed afresh.

    In place of scales, min_max observes one `range` (2,), lowest and highest value, for all bits.
    """

    def __init__(self, bits: tuple[Bits, ...], scale: Scale, first_last: FirstLast, shortcut: bool = False) -> None:
        super().__init__()
        self.bits, self.scale, self.first_last, self.shortcut = bits, scale, first_last, shortcut
        self.active = FLOAT
        self._names = {width: f"scale_{width}" for width in bits}
        self.role: Role | None = None

    def bits_at(self, bits: Bits) -> int:
        """Bits in use when the network is at `bits`; end layers have at least 8 under `eight`, 32 under `float`."""
        width = self._bits_of(bits)
        at_end = self.role is not None and (self.role.first or self.role.last)
        if self.first_last == "float" and (at_end or self.shortcut):
            return FLOAT_BITS
        return max(width, 8) if self.first_last == "eight" and at_end else width

    def mode(self, bits: Bits) -> str:
        """ema, mse, lsq or min_max."""
        if self.scale != "paper":
            return self.scale
        return "lsq" if self.bits_at(bits) <= LARGEST_LEARNED else "ema"

    def scale_at(self, bits: Bits) -> torch.Tensor:
        """The stored scale; the stored range in mode min_max.

        Raises:
            QPatchBenchError: neither `initialize` nor `load_state_dict` was called. (Not an AttributeError, which
                torch would answer with the raw weight of the layer.)
        """
        name = self._stored_name(bits)
        stored = self._parameters.get(name, self._buffers.get(name))
        if stored is None:
            raise QPatchBenchError(
                f"quantizer at {bits} bits has no scale. Expected initialize(module, images) or load_state_dict() "
                "after prepare()"
            )
        return stored

    def assign(self, role: Role, like: torch.Tensor) -> None:
        """Take a role and create the scales that it needs, on the device of `like`."""
        self.role = role
        for bits in self.bits:
            shape = self._stored_shape(bits) if self.bits_at(bits) != FLOAT_BITS else None
            name = self._stored_name(bits)
            if shape is None or name in {**self._parameters, **self._buffers}:
                continue
            scale = torch.ones(shape, device=like.device)
            if self.mode(bits) == "lsq":
                self.register_parameter(name, nn.Parameter(scale))
            else:
                self.register_buffer(name, scale)

    def get_extra_state(self) -> torch.Tensor:
        """The role as (first, last, signed) uint8; empty before initialisation."""
        role = self.role
        return torch.tensor([role.first, role.last, role.signed] if role else [], dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Accepted in `_load_from_state_dict`, before the scales are copied."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:  # noqa: ANN401
        # What a layer stores depends on its role, so a fresh module learns the role before torch looks for scales.
        flags = state_dict.get(f"{prefix}_extra_state")
        if flags is not None and len(flags):
            names = (f"{prefix}scale_", f"{prefix}range")
            stored = [value for name, value in state_dict.items() if name.startswith(names)]
            self.assign(Role(*map(bool, flags.tolist())), stored[0] if stored else flags)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _stored_name(self, bits: Bits) -> str:
        return "range" if self.mode(bits) == "min_max" else self._names.get(bits, "")

    def _bits_of(self, bits: Bits) -> int:
        raise NotImplementedError

    def _stored_shape(self, bits: Bits) -> tuple[int, ...] | None:
        raise NotImplementedError


class WeightQuantizer(_FakeQuantizer):
    """Signed, narrow, one scale per output channel; in mode min_max one range per output channel.

    Args:
        channels: number of output channels, dimension 0 of the weight.
        bits: bit-widths of the network.
        scale: scale mode.
        first_last: width of the first and last layer.
        shortcut: whether the layer is a shortcut, which counts as an end layer where those are float.
    """

    def __init__(
        self, channels: int, bits: tuple[Bits, ...], scale: Scale, first_last: FirstLast, shortcut: bool = False
    ) -> None:
        super().__init__(bits, scale, first_last, shortcut)
        self.channels = channels

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Raw weight -> weight on the grid of the active bits; the same object at 32."""
        width = self.bits_at(self.active)
        if width == FLOAT_BITS:
            return weight
        if self.mode(self.active) == "min_max":
            return fake_quantize_between(weight, extremes(weight, 0), width, 0)
        qmin, qmax = code_range(width, signed=True)
        if self.mode(self.active) == "lsq":
            return fake_quantize_learned(weight, _nonzero(self.scale_at(self.active)), qmin, qmax, 0)
        if self.mode(self.active) == "mse":
            return fake_quantize(weight, mse_scale(weight, qmin, qmax, 0), qmin, qmax, 0)
        return fake_quantize(weight, max_scale(weight, qmax, 0), qmin, qmax, 0)

    @torch.no_grad()
    def initialize(self, weight: torch.Tensor, role: Role, chosen: tuple[Bits, ...] | None = None) -> None:
        """Set the learned scales from the weight; of the chosen widths only, where some are chosen."""
        self.assign(role, weight)
        for bits in self.bits if chosen is None else chosen:
            if self.bits_at(bits) != FLOAT_BITS and self.mode(bits) == "lsq":
                self.scale_at(bits).copy_(mse_scale(weight, *code_range(self.bits_at(bits), signed=True), 0))

    def _bits_of(self, bits: Bits) -> int:
        return bits.weight

    def _stored_shape(self, bits: Bits) -> tuple[int, ...] | None:
        return (self.channels,) if self.mode(bits) == "lsq" else None


class ActivationQuantizer(_FakeQuantizer):
    """One scale per tensor; unsigned if the layer's inputs are never negative. Learns or observes in training mode."""

    held: dict[Bits, torch.Tensor] | None = None  # step sizes, while parameters are constants

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs of any shape (B, ...) -> the same on the grid of the active bits; the same object at 32."""
        width = self.bits_at(self.active)
        if width == FLOAT_BITS:
            return inputs
        scale = self.scale_at(self.active)
        if self.mode(self.active) == "min_max":
            if not self.training:
                return fake_quantize_between(inputs, scale, width)
            batch_range = extremes(inputs)
            with torch.no_grad():
                scale.lerp_(batch_range, MIN_MAX_MOMENTUM)
            return fake_quantize_between(inputs, batch_range, width)
        qmin, qmax = code_range(width, self._role.signed)
        if self.mode(self.active) == "lsq":
            step = self._step_size(scale)
            return fake_quantize_learned(inputs, step, qmin, qmax, elements=max(1, inputs[0].numel()))
        if self.training:
            observed = self.observed_scale(inputs, self.active)
            with torch.no_grad():
                scale = scale.lerp(observed, EMA_MOMENTUM)
                self.scale_at(self.active).copy_(scale)
        return fake_quantize(inputs, scale, qmin, qmax)

    def observed_scale(self, inputs: torch.Tensor, bits: Bits) -> torch.Tensor:
        """The scale that one batch of inputs asks for, () float32 without a graph; (2,) in mode min_max."""
        if self.mode(bits) == "min_max":
            return extremes(inputs)
        qmin, qmax = code_range(self.bits_at(bits), self._role.signed)
        if self.mode(bits) in ("mse", "lsq"):
            # An odd stride does not lock onto the power-of-two sizes of feature maps.
            stride = inputs.numel() // _SAMPLE | 1
            return mse_scale(inputs.detach().flatten()[::stride], qmin, qmax)
        return max_scale(inputs, qmax)

    def frozen(self) -> FrozenActivation:
        """What deployment keeps of it: the active width and its scale."""
        width, signed = self.bits_at(self.active), self.role is not None and self.role.signed
        if width == FLOAT_BITS:
            return FrozenActivation(width, signed, None)
        stored = self.scale_at(self.active)
        if self.mode(self.active) == "min_max":
            return FrozenActivation(width, False, stored)  # codes count up from the lowest value
        return FrozenActivation(width, signed, stored.abs())

    def quantized_bits(self) -> tuple[Bits, ...]:
        """The bit-widths at which this layer's inputs are quantized."""
        return tuple(bits for bits in self.bits if self.bits_at(bits) != FLOAT_BITS)

    def bits_at(self, bits: Bits) -> int:
        """As for weights, but 32 for the image."""
        return FLOAT_BITS if self.role is not None and self.role.first else super().bits_at(bits)

    def _step_size(self, scale: torch.Tensor) -> torch.Tensor:
        if self.held is None:
            return _nonzero(scale)
        if self.active not in self.held:
            self.held[self.active] = _nonzero(scale)
        return self.held[self.active]

    @property
    def _role(self) -> Role:
        if self.role is None:
            raise QPatchBenchError("quantizer is not initialised. Expected initialize(module, images) after prepare()")
        return self.role

    def _bits_of(self, bits: Bits) -> int:
        return bits.activation

    def _stored_shape(self, bits: Bits) -> tuple[int, ...]:
        return (2,) if self.mode(bits) == "min_max" else ()


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    """A learned scale may step over zero; its magnitude is the step size. Exact for positive scales."""
    return scale.abs() + SMALLEST_SCALE
