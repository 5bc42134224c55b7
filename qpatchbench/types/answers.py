"""Networks and their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch

# A frozen, evaluable module at one bit-width: images (B, 3, H, W) float32 in [0, 1] -> logits (B, K).
Network: TypeAlias = Callable[["torch.Tensor"], "torch.Tensor"]


# Named terms of a training loss, scalars; the loop sums, logs and differentiates them.
Losses: TypeAlias = dict[str, "torch.Tensor"]


class Observed(NamedTuple):
    """A forward pass with what was seen inside.

    Attributes:
        logits: (B, K).
        features: layer name -> its output as the next layer computes with it, (B, C, h, w) of a convolution: after
            BatchNorm, nonlinearity and the activation quantizer.
    """

    logits: torch.Tensor
    features: Mapping[str, torch.Tensor]


@runtime_checkable
class Randomized(Protocol):
    """A network that draws at random how it answers."""

    @property
    def expected(self) -> Network:
        """What it answers on average, exactly; attacks by gradient follow this one."""

    def restart(self, seed: int) -> None:
        """Draw from here on as `seed` says."""
