"""The judgement of a per-image patch: whether it succeeds, and its loss; success counts first, the loss second."""

from __future__ import annotations

from typing import NamedTuple

import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting.loops import Objective
from qpatchbench.ops.crafting.losses import succeeded
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit
from qpatchbench.types import Network, Placement


class Judgement(NamedTuple):
    """Losses (B,), to be minimised, and success (B,) bool, one per candidate of a batch."""

    losses: torch.Tensor
    success: torch.Tensor

    @classmethod
    def worst(cls, count: int, device: torch.device) -> Judgement:
        """What any candidate beats."""
        return cls(torch.full((count,), torch.inf, device=device), torch.zeros(count, dtype=torch.bool, device=device))

    def better_than(self, other: Judgement) -> torch.Tensor:
        """(B,) bool: success first, loss second."""
        return (self.success & ~other.success) | ((self.success == other.success) & (self.losses < other.losses))

    def where(self, keep: torch.Tensor, other: Judgement) -> Judgement:
        """This one where `keep`, the other elsewhere."""
        return Judgement(*(torch.where(keep, own, theirs) for own, theirs in zip(self, other, strict=True)))

    def detached(self) -> Judgement:
        """The same numbers without a graph."""
        return Judgement(self.losses.detach(), self.success)

    def require_finite(self, where: str) -> None:
        """Raise an `AttackError` that says where, unless all losses are finite."""
        if not bool(torch.isfinite(self.losses).all()):
            raise AttackError(f"the loss is not finite {where}: the network's output holds NaN or infinity")


class Found(NamedTuple):
    """The best patch so far of each of B images.

    Attributes:
        textures: (B, 3, h, w) in [0, 1].
        placement: upright, where each lies.
        judgement: of these.
    """

    textures: torch.Tensor
    placement: Placement
    judgement: Judgement

    def joined(self, index: torch.Tensor, other: Found) -> Found:
        """With what another run found for the images `index`, where that is better."""
        better = other.judgement.better_than(Judgement(*(value[index] for value in self.judgement)))
        chosen = (index[better],)

        def merged(own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
            return own.index_put(chosen, theirs[better])

        return Found(
            merged(self.textures, other.textures),
            upright(
                merged(self.placement.rows, other.placement.rows),
                merged(self.placement.columns, other.placement.columns),
            ),
            Judgement(*map(merged, self.judgement, other.judgement)),
        )


def judged_patches(
    network: Network,
    objective: Objective,
    images: torch.Tensor,
    labels: torch.Tensor,
    targets: torch.Tensor,
    textures: torch.Tensor,
    placement: Placement,
) -> Judgement:
    """Judge textures (B, 3, h, w) in [0, 1], pasted on images (B, 3, H, W), as they will be stored: at 8 bits.

    The gradient is that at the rounded texture, passed straight through the rounding.
    """
    # x + (r - x) is r to the bit, since r is within a factor of two of x, or one of them is 0.
    rounded = textures + (round_to_8_bit(textures.detach()) - textures.detach())
    logits = network(paste(images, rounded, torch.ones_like(textures[:1, :1]), placement)).float()
    return Judgement(objective(logits, labels, targets), succeeded(logits, labels, targets))
