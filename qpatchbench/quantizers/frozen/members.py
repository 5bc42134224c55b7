"""Networks that answer with one of several members: drawn at random for every image, or in expectation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from qpatchbench.ops.mean_prediction import log_mean_probability


class RandomPrecisionNetwork(nn.Module):
    """Draws a member for every image, uniformly and independently of all that was drawn before.

    Args:
        members: frozen networks by bit-width; one or more.
        seed: of the draws.
    """

    def __init__(self, members: Mapping[str, nn.Module], seed: int) -> None:
        super().__init__()
        self.members = nn.ModuleDict(members)
        self.generator = torch.Generator().manual_seed(seed)
        self.eval()

    @property
    def expected(self) -> ExpectedNetwork:
        """What an attack on the average over draws differentiates; it shares the members and draws nothing."""
        return ExpectedNetwork(self.members)

    def restart(self, seed: int) -> None:
        """Draw from here on as a network deployed with `seed` does."""
        self.generator.manual_seed(seed)

    def draw(self, count: int) -> torch.Tensor:
        """The next `count` members by number, (count,) int64 on the CPU."""
        return torch.randint(len(self.members), (count,), generator=self.generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) with B >= 1 -> (B, K); image i answered by the i-th drawn member."""
        drawn = self.draw(len(images))
        order = drawn.argsort(stable=True)
        counts = drawn.bincount(minlength=len(self.members)).tolist()
        parts = torch.split(images[order.to(images.device)], counts)
        pairs = zip(self.members.values(), parts, strict=True)
        logits = torch.cat([member(part) for member, part in pairs if len(part)])
        return logits[order.argsort().to(images.device)]


class ExpectedNetwork(nn.Module):
    """Log of the mean of the members' probabilities: the exact expectation of a prediction over the draws."""

    def __init__(self, members: nn.ModuleDict) -> None:
        super().__init__()
        self.members = members
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> log-probabilities (B, K) float32."""
        return log_mean_probability(torch.stack([member(images) for member in self.members.values()]))
