"""Trained fake quantizers: Krishnamoorthi 2018, arXiv 1806.08342, section 3.1, and LSQ (Esser et al. 2020, 1902.08153).

Uniform, symmetric, zero point 0; weights per output channel, activations per tensor. The papers that cite this set-up
name moving-average observers and LSQ in one breath; `paper` uses each where it works: learned scales at 4 bits
and below, max-abs scales above. `min_max` alone is asymmetric.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.frozen.deploying import deploy_float, finished, loaded
from qpatchbench.types import Bits


class Qat(Quantizer):
    """Deploys one width of a network that was trained with switchable fake quantizers."""

    version: ClassVar[int] = 2
    trained: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True
    wants_trained: ClassVar[bool] = True

    scale: Literal["paper", "ema", "mse", "lsq", "min_max"] = Field(
        default="paper",
        description="how scales arise: ema (max-abs; moving average for activations), mse (least squared error), lsq "
        "(learned, from the scale of least squared error on), paper (lsq at 4 bits and below, else ema), min_max "
        "(asymmetric, from the smallest to the largest value, as in the code of Double-Win Quant)",
    )
    first_last: Literal["same", "eight", "float"] = Field(
        default="same",
        description="width of the first and last layer: same as all, eight bits where all have fewer, or float, which "
        "leaves strided 1x1 shortcut convolutions in full precision too (as in the code of Double-Win Quant)",
    )
    batch_norm: Literal["switchable", "shared"] = Field(
        default="switchable", description="one BatchNorm per bit-width, or one for all"
    )

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> torch.nn.Module:
        """The trained network at `bits`, frozen; `calibration` only serves as an example input.

        Raises:
            QPatchBenchError: the checkpoint has no quantizers, or none for `bits`.
        """
        from qpatchbench.quantizers.frozen.network import freeze
        from qpatchbench.quantizers.trained.switchable import prepare, set_bits

        if bits.is_float and (checkpoint.quantizer is None or bits in checkpoint.bits):
            return deploy_float(checkpoint, self.mode, calibration)
        if checkpoint.quantizer is None:
            raise QPatchBenchError(
                f"{self.mode} at {bits} bits needs trained quantizers, found a float checkpoint; train with a "
                "quantization-aware defense such as qat, or deploy with ptq or dynamic"
            )
        if bits not in checkpoint.bits:
            available = ", ".join(map(str, checkpoint.bits))
            raise QPatchBenchError(f"checkpoint was not trained at {bits} bits. Available: {available}")
        module = checkpoint.build()
        prepare(module, checkpoint.bits, checkpoint.quantizer)
        loaded(module, checkpoint.state)
        set_bits(module, bits)
        freeze(module)
        return finished(module, calibration)
