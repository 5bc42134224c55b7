"""Backward pass differentiable approximation (BPDA; Athalye, Carlini, Wagner 2018, arXiv 1802.00420, section 4.1)."""

from __future__ import annotations

import torch

from qpatchbench.types import Network


def with_gradient_of(network: Network, surrogate: Network) -> Network:
    """A network that answers as `network` does, bit for bit, and whose gradient is that of `surrogate`."""

    def both(images: torch.Tensor) -> torch.Tensor:
        smooth = surrogate(images)
        with torch.no_grad():
            exact = network(images)
        # The difference is 0 in value and the surrogate in gradient.
        return exact + (smooth - smooth.detach())

    return both
