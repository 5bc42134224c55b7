"""What quantizers are tried on: a checkpoint of a tiny network, float or with trained quantizers, and images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from qpatchbench.ops.pasting import to_float
from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.qat import Qat
from qpatchbench.testing.ground import WIDTHS, TinyNet, float_network, images_of, switchable_network
from qpatchbench.types import FLOAT, Bits


class Tried(NamedTuple):
    """What a quantizer is given."""

    checkpoint: Checkpoint
    calibration: torch.Tensor
    images: torch.Tensor


def tried(quantizer: Quantizer, seed: int, count: int = 12) -> Tried:
    """A float checkpoint, or a trained one for a quantizer that wants it, and images."""
    bits = tuple(dict.fromkeys((*WIDTHS, *quantizer.bits)))
    trained = quantizer if quantizer.trained else Qat(name="qat", bits=bits)
    network = float_network(seed)
    if quantizer.wants_trained:
        network = switchable_network(network, seed, bits, trained)
        checkpoint = Checkpoint(TinyNet, network.state_dict(), trained, bits)
    else:
        checkpoint = Checkpoint(TinyNet, network.state_dict(), None, (FLOAT,))
    calibration, images = (to_float(images_of(seed, n, role=r).pixels) for n, r in ((32, "calibration"), (count, "x")))
    return Tried(checkpoint, calibration, images)


def deployed(quantizer: Quantizer, on: Tried, bits: Bits) -> nn.Module:
    """The network at `bits`."""
    return quantizer.deploy(on.checkpoint, bits, on.calibration)
