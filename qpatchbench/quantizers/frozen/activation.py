"""The activation quantizer of a deployed layer."""

from __future__ import annotations

import torch
from torch import nn

from qpatchbench.ops.quantization.fake_quantization import (
    CodeRange,
    code_range,
    fake_quantize,
    fake_quantize_between,
    fake_quantize_by_image,
    max_scale,
)
from qpatchbench.types import FLOAT_BITS


class FrozenActivation(nn.Module):
    """Quantizes a layer's inputs (B, ...) with a fixed scale or range, or per image at run time.

    Without a stored scale every index of dimension 0 gets max|x| / qmax of its own values: an image, or one
    window of an image in Swin. A result thus never depends on what else is in the batch.

    Attributes:
        follows_scale: whether gradients pass through a run-time scale, too; what is computed stays the same.

    Args:
        width: bits; 32 leaves the inputs alone.
        signed: whether the codes include negative ones.
        scale: () float; (2,) float, lowest and highest value, for an asymmetric grid; or None for the
            run-time scale.
        codes: smallest and largest code of a stored () scale, where they are not those of `code_range`: an integer
            zero point counts as code 0.
    """

    scale: torch.Tensor | None

    def __init__(self, width: int, signed: bool, scale: torch.Tensor | None, codes: CodeRange | None = None) -> None:
        super().__init__()
        self.width, self.signed = width, signed
        self.codes = codes
        self.enabled = True
        self.follows_scale = False
        self.register_buffer("scale", None if scale is None else scale.detach().clone())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Same shape and dtype."""
        if self.width == FLOAT_BITS or not self.enabled:
            return inputs
        if self.scale is not None and self.scale.ndim:
            return fake_quantize_between(inputs, self.scale, self.width)
        qmin, qmax = self.codes or code_range(self.width, self.signed)
        if self.scale is None and self.follows_scale:
            return fake_quantize_by_image(inputs, qmin, qmax)
        if self.scale is None:
            return fake_quantize(inputs, max_scale(inputs, qmax, 0), qmin, qmax, 0)
        return fake_quantize(inputs, self.scale, qmin, qmax)

    def extra_repr(self) -> str:
        """Shown in the repr of the network."""
        if self.width == FLOAT_BITS:
            return f"{self.width} bits"
        if self.scale is not None and self.scale.ndim:
            return f"{self.width} bits, from {float(self.scale[0]):.4g} to {float(self.scale[1]):.4g}"
        source = "per image" if self.scale is None else f"{float(self.scale):.4g}"
        codes = "signed" if self.signed else "unsigned"
        if self.codes is not None:
            codes = f"codes {self.codes.qmin} to {self.codes.qmax}"
        return f"{self.width} bits, {codes}, scale {source}"
