"""The float network: no quantization, the reference of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, field_validator

from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.frozen.deploying import deploy_float
from qpatchbench.types import FLOAT, Bits


class Fp(Quantizer):
    """Deploys the float network, frozen, with BatchNorm folded."""

    expected_failures: ClassVar[Mapping[str, str]] = {"a_source_is_named": "no quantization; there is nothing to cite"}

    bits: tuple[Bits, ...] = Field(default=(FLOAT,), min_length=1, description="32 only")

    @field_validator("bits")
    @classmethod
    def _float_only(cls, bits: tuple[Bits, ...]) -> tuple[Bits, ...]:
        quantized = [str(width) for width in bits if not width.is_float]
        if quantized:
            raise ValueError(f"expected 32, the only width of fp, found {', '.join(quantized)}; ptq quantizes")
        return bits

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> torch.nn.Module:
        """The frozen float network; `calibration` only serves as an example input."""
        return deploy_float(checkpoint, self.mode, calibration)
