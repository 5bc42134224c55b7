"""What a defense is: a strategy that the training loop calls, with no loop of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from qpatchbench.component import Component
from qpatchbench.types import Bits, Losses, Network


@dataclass(frozen=True)
class Batch:
    """Augmented training images (B, 3, H, W) float32 in [0, 1] and labels (B,) int64."""

    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Step:
    """Where training stands.

    Attributes:
        epoch_fraction: progress of the whole training, 0..1.
        bits: bit-widths that are active now.
        generator: the only source of randomness, on the CPU.
    """

    epoch_fraction: float
    bits: tuple[Bits, ...]
    generator: torch.Generator


class SwitchableNetwork(Protocol):
    """One set of weights that answers at several bit-widths."""

    def at(self, bits: Bits) -> Network:
        """The network at `bits`, in its current mode; a later call to `at` switches it again."""


class Defense(Component, ABC):
    """Decides the loss of a training step and, where it needs to, the gradients that follow."""

    quantization_aware: ClassVar[bool] = True

    def bit_groups(self, bits: tuple[Bits, ...]) -> tuple[tuple[Bits, ...], ...]:
        """Partition `bits` into sets that share weights; each set is trained as one network."""
        return (bits,)

    def active_bits(self, epoch_fraction: float, bits: tuple[Bits, ...]) -> tuple[Bits, ...]:
        """The bit-widths trained at this point of a curriculum."""
        return bits

    @abstractmethod
    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Named loss terms, scalars with a graph; the loop sums and differentiates them."""

    def after_backward(self, parameters: list[torch.nn.Parameter], step: Step) -> None:  # noqa: B027
        """Change gradients in place before the optimiser step; by default nothing."""
