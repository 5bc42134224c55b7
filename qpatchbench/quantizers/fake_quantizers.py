"""Trainable fake quantizers of one layer: a weight and an activation quantizer, each with a scale per bit-width.

Scale modes (`scale`):
- ema: weights max|w| per channel, fresh on every forward pass, because a moving average of weights would only lag
  behind them; activations an exponential moving average of max|x| (Krishnamoorthi 2018, arXiv 1806.08342, section 2.5);
- mse: the same with the scale of least squared error in place of the max-abs scale; slow for weights;
- lsq: learned (Esser et al. 2020, arXiv 1902.08153);
- paper: lsq at 4 bits and below, ema above. At 2 bits a max-abs scale would round 84 to 94 % of Gaussian
  weights to zero (fan-in 144 to 4608).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.fake_quantization import (
    SMALLEST_SCALE,
    code_range,
    fake_quantize,
    fake_quantize_learned,
    lsq_initial_scale,
    max_scale,
    mse_scale,
)
from qpatchbench.types import FLOAT, FLOAT_BITS, Bits

Scale = Literal["paper", "ema", "mse", "lsq"]
FirstLast = Literal["same", "eight"]

EMA_MOMENTUM = 0.01  # share of the newest batch; torch.ao's averaging_constant
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
    """Scales by name `scale_<bits>`: a parameter if learned, a buffer if observed, absent if computed afresh."""

    def __init__(self, bits: tuple[Bits, ...], scale: Scale, first_last: FirstLast) -> None:
        super().__init__()
        self.bits, self.scale, self.first_last = bits, scale, first_last
        self.active = FLOAT
        self.role: Role | None = None

    def width(self, bits: Bits) -> int:
        """Bits in use when the network is at `bits`: 8 for end layers under the policy `eight`."""
        width = self._width(bits)
        at_end = self.role is not None and (self.role.first or self.role.last)
        return max(width, 8) if self.first_last == "eight" and at_end else width

    def mode(self, bits: Bits) -> str:
        """ema, mse or lsq."""
        if self.scale != "paper":
            return self.scale
        return "lsq" if self.width(bits) <= LARGEST_LEARNED else "ema"

    def scale_at(self, bits: Bits) -> torch.Tensor:
        """The stored scale.

        Raises:
            QPatchBenchError: neither `initialize` nor `load_state_dict` was called. (Not an AttributeError, which
                torch would answer with the raw weight of the layer.)
        """
        name = f"scale_{bits}"
        stored = {**self._parameters, **self._buffers}.get(name)
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
            shape = self._stored_shape(bits) if self.width(bits) != FLOAT_BITS else None
            if shape is None or f"scale_{bits}" in {**self._parameters, **self._buffers}:
                continue
            scale = torch.ones(shape, device=like.device)
            if self.mode(bits) == "lsq":
                self.register_parameter(f"scale_{bits}", nn.Parameter(scale))
            else:
                self.register_buffer(f"scale_{bits}", scale)

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
            stored = [value for name, value in state_dict.items() if name.startswith(f"{prefix}scale_")]
            self.assign(Role(*map(bool, flags.tolist())), stored[0] if stored else flags)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _width(self, bits: Bits) -> int:
        raise NotImplementedError

    def _stored_shape(self, bits: Bits) -> tuple[int, ...] | None:
        raise NotImplementedError


class WeightQuantizer(_FakeQuantizer):
    """Signed, narrow, one scale per output channel.

    Args:
        channels: number of output channels, dimension 0 of the weight.
        bits: bit-widths of the network.
        scale: scale mode.
        first_last: width of the first and last layer.
    """

    def __init__(self, channels: int, bits: tuple[Bits, ...], scale: Scale, first_last: FirstLast) -> None:
        super().__init__(bits, scale, first_last)
        self.channels = channels

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Raw weight -> weight on the grid of the active bits; the same object at 32."""
        width = self.width(self.active)
        if width == FLOAT_BITS:
            return weight
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
            if self.width(bits) != FLOAT_BITS and self.mode(bits) == "lsq":
                qmax = code_range(self.width(bits), signed=True).qmax
                self.scale_at(bits).copy_(lsq_initial_scale(weight, qmax, 0))

    def _width(self, bits: Bits) -> int:
        return bits.weight

    def _stored_shape(self, bits: Bits) -> tuple[int, ...] | None:
        return (self.channels,) if self.mode(bits) == "lsq" else None


class ActivationQuantizer(_FakeQuantizer):
    """One scale per tensor; unsigned if the layer's inputs are never negative. Learns or observes in training mode."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs of any shape (B, ...) -> the same on the grid of the active bits; the same object at 32."""
        width = self.width(self.active)
        if width == FLOAT_BITS:
            return inputs
        scale = self.scale_at(self.active)
        qmin, qmax = code_range(width, self._role.signed)
        if self.mode(self.active) == "lsq":
            return fake_quantize_learned(inputs, _nonzero(scale), qmin, qmax, elements=max(1, inputs[0].numel()))
        if self.training:
            observed = self.observed_scale(inputs, self.active)
            with torch.no_grad():
                scale = scale.lerp(observed, EMA_MOMENTUM)
                self.scale_at(self.active).copy_(scale)
        return fake_quantize(inputs, scale, qmin, qmax)

    def observed_scale(self, inputs: torch.Tensor, bits: Bits) -> torch.Tensor:
        """The scale that one batch of inputs asks for, () float32 without a graph."""
        qmin, qmax = code_range(self.width(bits), self._role.signed)
        if self.mode(bits) == "lsq":
            return lsq_initial_scale(inputs, qmax)
        if self.mode(bits) == "mse":
            # An odd stride does not lock onto the power-of-two sizes of feature maps.
            stride = inputs.numel() // _SAMPLE | 1
            return mse_scale(inputs.detach().flatten()[::stride], qmin, qmax)
        return max_scale(inputs, qmax)

    def quantized_bits(self) -> tuple[Bits, ...]:
        """The bit-widths at which this layer's inputs are quantized."""
        return tuple(bits for bits in self.bits if self.width(bits) != FLOAT_BITS)

    def width(self, bits: Bits) -> int:
        """As for weights, but 32 for the image."""
        return FLOAT_BITS if self.role is not None and self.role.first else super().width(bits)

    @property
    def _role(self) -> Role:
        if self.role is None:
            raise QPatchBenchError("quantizer is not initialised. Expected initialize(module, images) after prepare()")
        return self.role

    def _width(self, bits: Bits) -> int:
        return bits.activation

    def _stored_shape(self, bits: Bits) -> tuple[int, ...]:
        return ()


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    """A learned scale may step over zero; its magnitude is the step size. Exact for positive scales."""
    return scale.abs() + SMALLEST_SCALE
