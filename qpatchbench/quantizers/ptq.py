"""Post-training quantization: weights per channel max-abs, activation ranges calibrated on held-out images.

Wu et al. 2020, Integer Quantization for Deep Learning Inference, arXiv 2004.09602, sections 3 and 4. `minmax` takes the
largest |x| over all calibration images. `percentile` clips the tail: the range is the given percentile of |x| in each
calibration batch, averaged over batches, as in FQ-ViT (Lin et al. 2022, arXiv 2111.13824).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field

from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.deploying import deploy_float, finished, float_network
from qpatchbench.types import FLOAT_BITS, Bits


class Ptq(Quantizer):
    """Deploys a float checkpoint at any width without training."""

    calibration: Literal["minmax", "percentile"] = Field(
        default="minmax", description="range of activations: the largest |x|, or a percentile of |x|"
    )
    percentile: float = Field(
        default=99.99,
        gt=0,
        le=100,
        description="percentile of |x| that becomes the range. 99.99 is among the two best of Wu et al. 2020; the "
        "99.999 of FQ-ViT clips next to nothing in the small feature maps of 32-pixel images",
        json_schema_extra={"unit": "%"},
    )
    batch_size: int = Field(
        default=64, gt=0, description="calibration images per batch", json_schema_extra={"unit": "images"}
    )

    @property
    def mode(self) -> str:
        """ptq-minmax or ptq-percentile, unless labelled."""
        return self.label or f"{self.name}-{self.calibration}"

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> torch.nn.Module:
        """The float network of the checkpoint, quantized at `bits`, frozen.

        Raises:
            QPatchBenchError: no calibration images, or the checkpoint has no float network.
        """
        from qpatchbench.ops.quantization.fake_quantization import SMALLEST_SCALE, code_range
        from qpatchbench.quantizers.frozen import freeze_static, reject_empty
        from qpatchbench.quantizers.frozen_activation import FrozenActivation
        from qpatchbench.quantizers.layers import quantizable
        from qpatchbench.quantizers.observing import in_batches, observe_inputs

        if bits.is_float:
            return deploy_float(checkpoint, self.mode, calibration)
        reject_empty(calibration, self.mode)
        module = float_network(checkpoint, self.mode)
        batches = in_batches(calibration, self.batch_size)
        seen = observe_inputs(module, batches, lambda name: {"range": self._batch_range})
        first = next(iter(seen))
        for name, layer in list(quantizable(module)):
            # The input of the first layer is the 8-bit image.
            width = FLOAT_BITS if name == first else bits.activation
            scale = None
            if width != FLOAT_BITS:
                ranges = torch.stack(seen[name].measures["range"])
                limit = ranges.max() if self.calibration == "minmax" else ranges.mean()
                scale = (limit / code_range(width, seen[name].signed).qmax).clamp_min(SMALLEST_SCALE)
            freeze_static(layer, bits.weight, FrozenActivation(width, seen[name].signed, scale))
        return finished(module, calibration)

    def _batch_range(self, inputs: torch.Tensor) -> torch.Tensor:
        """Largest |x| of one batch, or its percentile (nearest rank, so that it is one of the values)."""
        magnitudes = inputs.float().abs().flatten()
        if self.calibration == "minmax":
            return magnitudes.max()
        rank = max(1, math.ceil(self.percentile / 100 * magnitudes.numel()))
        return magnitudes.kthvalue(rank).values
