"""Dynamic quantization: weights ahead of time, the activation scale of every image at run time.

Krishnamoorthi 2018, arXiv 1806.08342, section 2. Unlike torch.ao's dynamic mode, which quantizes linear layers
only and takes one scale per batch, convolutions are included and an image's result does not depend on its batch. The
scale is max|x| of the image and, like an observer's, receives no gradient unless an attack asks for it (`backward:
scales`). Whether a layer's codes are signed is fixed from the calibration images.

What a constant scale hides from an attack grows as bits fall. Against per-image 6x6 patches on a CIFAR ResNet-20 (64
images, one start, 30 steps) the mean cross-entropy with the scale followed, and in brackets without: 4.28 (4.28) at 8
bits, 5.16 (5.01) at 4, 9.03 (8.01) at 3.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.frozen.deploying import deploy_float, finished, float_network
from qpatchbench.types import FLOAT_BITS, Bits


class Dynamic(Quantizer):
    """Deploys a float checkpoint at any width; a scale per image needs no calibrated range."""

    calibrates: ClassVar[bool] = True
    scales_per_image: ClassVar[bool] = True

    def calibrated_at_once(self, images: int) -> int:
        """A batch, of which the signs of activations are read."""
        from qpatchbench.quantizers.inspection.inputs import BATCH_SIZE

        return min(BATCH_SIZE, images)

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> torch.nn.Module:
        """The float network of the checkpoint, quantized at `bits`, frozen.

        Raises:
            QPatchBenchError: no calibration images (for the signs), or the checkpoint has no float network.
        """
        from qpatchbench.quantizers.frozen.activation import FrozenActivation
        from qpatchbench.quantizers.frozen.network import freeze_static, reject_empty
        from qpatchbench.quantizers.inspection.inputs import in_batches, observe_inputs
        from qpatchbench.quantizers.trained.layers import quantizable

        if bits.is_float:
            return deploy_float(checkpoint, self.mode, calibration)
        reject_empty(calibration, self.mode)
        module = float_network(checkpoint, self.mode)
        seen = observe_inputs(module, in_batches(calibration), lambda name: {})
        first = next(iter(seen))
        for name, layer in list(quantizable(module)):
            # The input of the first layer is the 8-bit image.
            width = FLOAT_BITS if name == first else bits.activation
            freeze_static(layer, bits.weight, FrozenActivation(width, seen[name].signed, None))
        return finished(module, calibration)
