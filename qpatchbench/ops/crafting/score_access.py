"""A network as a score-based attack may see it: logits, no gradient, and every image counted."""

from __future__ import annotations

import torch

from qpatchbench.errors import AttackError
from qpatchbench.types import Network


class Scores:
    """A network that gives its logits and nothing else.

    Attributes:
        queries: number of images shown so far.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.queries = 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> logits (B, K), without a graph.

        Raises:
            AttackError: the images require a gradient, or the logits are not finite.
        """
        if images.requires_grad:
            raise AttackError("a score-based attack showed images that require a gradient: it may see logits only")
        self.queries += len(images)
        with torch.no_grad():
            logits = self._network(images)
        if not bool(torch.isfinite(logits).all()):
            raise AttackError("the network's logits are not finite")
        return logits
