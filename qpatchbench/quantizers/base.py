"""The contract of quantizers: a checkpoint and bits in, a deployed network out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, field_validator

from qpatchbench.component import Component
from qpatchbench.types import Announced, Bits


@dataclass(frozen=True)
class Checkpoint:
    """Learned weights and, after quantization-aware training, quantizer state.

    Attributes:
        build: makes the float architecture with arbitrary weights.
        state: tensors by name. Of a float checkpoint: the architecture's own state dict.
        quantizer: the trained quantizer whose state is included, or None for a float checkpoint.
        bits: bit-widths that share these weights.
    """

    build: Callable[[], torch.nn.Module]
    state: Mapping[str, torch.Tensor]
    quantizer: Quantizer | None
    bits: tuple[Bits, ...]


class Quantizer(Component, ABC):
    """Deploys a checkpoint at a bit-width.

    Attributes:
        trained: whether its own fake quantizers are what a quantization-aware defense trains.
        randomized: whether the deployed network draws at random how it answers.
        calibrates: whether it needs calibration images below 32 bits, in training or when it deploys.
        wants_trained: whether it deploys trained fake quantizers: its own, or those of another entry of the suite.
        scales_per_image: whether the deployed network takes activation scales from each image, so that an attack can
            follow their gradient.
    """

    trained: ClassVar[bool] = False
    randomized: ClassVar[bool] = False
    calibrates: ClassVar[bool] = False
    wants_trained: ClassVar[bool] = False
    scales_per_image: ClassVar[bool] = False

    bits: tuple[Bits, ...] = Field(min_length=1, description="bit-widths to deploy: 2..16, 32 = float, w4a8")

    @field_validator("bits")
    @classmethod
    def _each_once(cls, bits: tuple[Bits, ...]) -> tuple[Bits, ...]:
        repeated = {str(b) for b in bits if bits.count(b) > 1}
        if repeated:
            raise ValueError(f"expected every bit-width once, found {', '.join(sorted(repeated))} repeatedly")
        return bits

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """There is nothing to calibrate on."""
        if self.calibrates and not known.calibration and any(not bits.is_float for bits in self.bits):
            yield (
                "",
                f"{self.mode} is calibrated on images: expected calibration_images of the dataset of at least 1, "
                "found 0",
            )

    @property
    def mode(self) -> str:
        """Value of the `quantization` column, for example "ptq-percentile"."""
        return self.title

    def calibrated_at_once(self, images: int) -> int:
        """How many of so many calibration images pass through the network together; decides the memory of `deploy`."""
        return 0

    def answers_at_once(self, bits: Bits, trained: tuple[Bits, ...]) -> int:
        """Networks that answer to an attack together, of a deployment at `bits` of a checkpoint with `trained` bits."""
        return 1

    @abstractmethod
    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> torch.nn.Module:
        """A frozen network at `bits`: eval mode, no parameter requires a gradient, observers fixed.

        Args:
            checkpoint: what was trained.
            bits: one of the checkpoint's bits (trained quantizers), or any supported width.
            calibration: (N, 3, H, W) float32 in [0, 1], held out from training and evaluation.
        """
