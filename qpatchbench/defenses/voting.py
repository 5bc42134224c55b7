"""Several networks that vote."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from qpatchbench.ops.mean_prediction import log_mean_probability


class VotingNetwork(nn.Module):
    """The class that most members name; where they disagree evenly, the last one's.

    Logits (B, K) are votes, the last member's worth 1.5 so that it breaks ties, plus 0.4 times the members' mean
    probability: too little to turn a vote, but a search without gradients sees how far it is. Attacks by gradient
    follow `expected`.

    Args:
        members: networks, images (B, 3, H, W) -> logits (B, K).
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images as the members take them."""
        logits = torch.stack([member(images) for member in self.members])
        votes = torch.nn.functional.one_hot(logits.argmax(dim=2), logits.shape[2]).to(logits.dtype)
        return votes.sum(dim=0) + 0.5 * votes[-1] + 0.4 * logits.softmax(dim=2).mean(dim=0)

    @property
    def expected(self) -> AveragingNetwork:
        """The same members, averaged."""
        return AveragingNetwork(list(self.members))


class AveragingNetwork(nn.Module):
    """Logarithm of the members' mean probability, (B, K)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images as the members take them."""
        return log_mean_probability(torch.stack([member(images) for member in self.members]))
