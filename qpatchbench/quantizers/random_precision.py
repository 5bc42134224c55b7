"""Random precision inference (Fu et al. 2021, Double-Win Quant, ICML): a bit-width drawn anew for every input.

An attacker who prepares a perturbation for one width meets another. The authors' code draws a width per batch of the
evaluation, and independently one for the attack; here every image draws its own, so that a result does not depend on
how images are batched. Their attacks differentiate one drawn width; an attacker who knows of the draws averages over
them, and the network's `expected` is that average, exactly.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, field_validator

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.types import FLOAT, Bits


class RandomPrecision(Quantizer):
    """Deploys all widths of a network with trained fake quantizers up to `bits`, and draws one for every image."""

    wants_trained: ClassVar[bool] = True
    randomized: ClassVar[bool] = True

    seed: int = Field(default=0, ge=0, description="seed of the draws; they start again with every deployment")

    @field_validator("bits")
    @classmethod
    def _quantized(cls, bits: tuple[Bits, ...]) -> tuple[Bits, ...]:
        if FLOAT in bits:
            raise ValueError(
                "expected the widest bit-width to draw, 2..16, found 32: random precision draws quantized widths only; "
                "deploy 32 with fp or qat"
            )
        return bits

    def answers_at_once(self, bits: Bits, trained: tuple[Bits, ...]) -> int:
        """All that it draws from: an attack sees their mean."""
        return len(_drawn(trained, bits))

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> torch.nn.Module:
        """A `RandomPrecisionNetwork` of the checkpoint's quantized widths with no more bits than `bits`.

        Where `bits` is the checkpoint's narrowest width there is one member, and nothing is left to chance.

        Raises:
            QPatchBenchError: the checkpoint has no quantizers, or none for `bits`.
        """
        from qpatchbench.quantizers.frozen.members import RandomPrecisionNetwork

        if checkpoint.quantizer is None:
            raise QPatchBenchError(
                f"{self.mode} at {bits} bits needs trained quantizers, found a float checkpoint; train with a "
                "quantization-aware defense such as dwq"
            )
        if bits not in checkpoint.bits:
            available = ", ".join(str(width) for width in checkpoint.bits if width != FLOAT)
            raise QPatchBenchError(
                f"checkpoint was not trained at {bits} bits, the widest that {self.mode} is to draw. "
                f"Available: {available}"
            )
        drawn = _drawn(checkpoint.bits, bits)
        members = {str(width): checkpoint.quantizer.deploy(checkpoint, width, calibration) for width in drawn}
        return RandomPrecisionNetwork(members, self.seed)


def _drawn(trained: tuple[Bits, ...], widest: Bits) -> list[Bits]:
    """Narrowest first."""
    return sorted(bits for bits in trained if bits.weight <= widest.weight and bits.activation <= widest.activation)
