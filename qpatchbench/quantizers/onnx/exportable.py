"""A copy of a deployed network whose quantizers are operators that an exporter keeps whole.

Fake quantization is a handful of roundings and products, which an exporter would write down one by one, and no runtime
would take for quantization. As one operator each, they become QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.quantization.fake_quantization import code_range
from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.quantizers.onnx.weight_codes import weight_codes
from qpatchbench.quantizers.trained.layers import FrozenLayer
from qpatchbench.types import FLOAT_BITS

MOST_BITS = 8
OTHER_SCALE = "another scale of qat, or ptq"


@torch.library.custom_op("qpatchbench::on_grid", mutates_args=())
def on_grid(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, limits: list[float]) -> torch.Tensor:
    """Activations of any shape on the points scale * (code - zero), where `zero` has the type of a code.

    `limits` are the lowest and highest point where the type has codes beyond them, else nothing.
    """
    clipped = values.clamp(*limits) if limits else values
    ends = torch.iinfo(zero.dtype)
    codes = (clipped / scale).round() + zero.float()
    return (codes.clamp(ends.min, ends.max) - zero.float()) * scale


@on_grid.register_fake
def _on_grid_shape(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, limits: list[float]) -> torch.Tensor:
    return torch.empty_like(values)


@torch.library.custom_op("qpatchbench::from_codes", mutates_args=())
def from_codes(codes: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    """Weights (C, ...) float32 from int8 codes and a scale per channel."""
    return codes.float() * scales.view(-1, *[1] * (codes.ndim - 1))


@from_codes.register_fake
def _from_codes_shape(codes: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


class OnGrid(nn.Module):
    """Stands where a `FrozenActivation` with a fixed scale stood.

    Attributes:
        layer: whose input it quantizes.
        four: whether codes of 4 bits hold the grid, else those of 8.
        coarse: whether it has fewer than 8 bits.
    """

    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, original: FrozenActivation, layer: str) -> None:
        super().__init__()
        if original.scale is None:
            raise _no_grid(layer, "sets its scale for every image at run time", "ptq or qat")
        if original.scale.ndim:
            raise _no_grid(layer, "has a zero point that is no integer (scale: min_max)", OTHER_SCALE)
        codes = original.codes or code_range(original.width, original.signed)
        shifted = original.codes is not None or not original.signed
        zero = -codes.qmin if original.codes is not None else 0
        self.layer, self.four = layer, codes.qmax - codes.qmin < 16
        self.coarse = original.width < MOST_BITS
        # A signed type has one code more than the mirrored grid, at its lower end, which runtimes use. Of 8 bits it is
        # one more of 127, and a limit would keep integer kernels away; of 4 bits it is one more of 7.
        whole = codes.qmax - codes.qmin in (15, 255) or (original.codes is None and original.width == MOST_BITS)
        scale = float(original.scale)
        self.limits = [] if whole else [codes.qmin * scale, codes.qmax * scale]
        self.register_buffer("scale", original.scale.detach().float().clone())
        self.register_buffer("zero", torch.tensor(zero, dtype=torch.uint8 if shifted else torch.int8))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        found: torch.Tensor = torch.ops.qpatchbench.on_grid(inputs, self.scale, self.zero, self.limits)
        return found


class _FromCodes(nn.Module):
    """Mixed into the class of a layer whose weight is held as codes."""

    codes: torch.Tensor
    scales: torch.Tensor
    weight_bits: int

    @property
    def weight(self) -> torch.Tensor:
        """Float32, whenever it is read."""
        found: torch.Tensor = torch.ops.qpatchbench.from_codes(self.codes, self.scales, self.weight_bits)
        return found


def exportable(network: nn.Module) -> nn.Module:
    """A copy of a deployed network, in which every quantizer is one operator.

    Args:
        network: what `ptq` or `qat` deployed, at 8 bits or fewer; a float network stays as it is.

    Raises:
        QPatchBenchError: it has members, run-time scales, more bits or grids that integers cannot hold.
    """
    if hasattr(network, "members"):
        raise QPatchBenchError(
            "expected a single network, found several that answer together; export each on its own, deployed by ptq or "
            "qat under a defense without partners"
        )
    made: nn.Module = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for name, part in [*made.named_modules()]:
        if isinstance(part, FrozenLayer) and part.weight_bits != FLOAT_BITS:
            _expect_bits(name, part.weight_bits)
            if not part.mirrored:
                raise _no_grid(name, "has weights on an asymmetric grid (scale: min_max)", OTHER_SCALE)
            codes, scales = weight_codes(part.stored_weight, part.weight_bits, name)
            del part._parameters["weight"]
            part.__class__ = type(f"FromCodes{type(part).__name__}", (_FromCodes, type(part)), {})
            part.register_buffer("codes", codes)
            part.register_buffer("scales", scales)
    for name, part in [*made.named_modules()]:
        for own, child in [*part.named_children()]:
            if isinstance(child, FrozenActivation) and child.width != FLOAT_BITS:
                place = f"{name}.{own}".removesuffix(".activation_quantizer").lstrip(".")
                _expect_bits(place, child.width)
                setattr(part, own, OnGrid(child, place))
    return made.eval()


def _expect_bits(layer: str, bits: int) -> None:
    if bits > MOST_BITS:
        raise QPatchBenchError(f"{layer}: expected at most {MOST_BITS} bits, which integer runtimes have, found {bits}")


def _no_grid(layer: str, what: str, instead: str) -> QPatchBenchError:
    return QPatchBenchError(f"{layer} {what}: QuantizeLinear cannot say that. Expected a network deployed by {instead}")
