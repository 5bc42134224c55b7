"""A network that is shown images whose last digits are off: what of its answers depends on the order of a sum."""

from __future__ import annotations

from functools import partial

import torch

from qpatchbench.types import Network

RELATIVE = 1e-6  # error of a float32 sum of a few hundred terms that was added in another order


def disturbed(network: Network) -> Network:
    """The network on images (B, 3, H, W) in [0, 1] times 1 + 1e-6 N(0, 1), the same noise for every batch.

    A quantized network carries a code that lands on the other side of a tie through all its layers. How many of its
    predictions change is how many nobody can reproduce, in another runtime or on another processor.
    """
    return partial(_answer, network)


def _answer(network: Network, images: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    return network((images * (1 + RELATIVE * noise)).clamp(0, 1))
