"""The contract of defenses: a strategy that the training loop calls, with no loop of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from pydantic import Field

from qpatchbench.component import Component
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.types import Bits, Losses, Network, Patch
from qpatchbench.types import Observed as Observed


@dataclass(frozen=True)
class Batch:
    """Augmented training images (B, 3, H, W) float32 in [0, 1] and labels (B,) int64."""

    images: torch.Tensor
    labels: torch.Tensor

    def halves(self) -> tuple[Batch, Batch]:
        """The first half, which the defenses with patches keep clean, and the second; the odd image is clean."""
        middle = (len(self.labels) + 1) // 2
        return (
            Batch(self.images[:middle], self.labels[:middle]),
            Batch(self.images[middle:], self.labels[middle:]),
        )


@dataclass(frozen=True)
class Step:
    """Where training stands.

    Attributes:
        epoch_fraction: progress of the whole training, 0..1.
        bits: bit-widths that are active now.
        generator: randomness of this epoch, on the CPU, shared with order and augmentation; prefer `draws`.
        index: steps done before this one, since the start of the training.
        seed: of the training.
        pool: the patches of the suite's pool, each with its own size and goals; empty unless the defense wants them.
    """

    epoch_fraction: float
    bits: tuple[Bits, ...]
    generator: torch.Generator
    index: int = 0
    seed: int = 0
    pool: tuple[Patch, ...] = ()

    def draws(self, role: str, index: int | None = None) -> torch.Generator:
        """A CPU generator of this step (or of step `index`) and role: asked twice, it gives the same numbers twice.

        A defense keeps no state between steps; what was drawn in an earlier one it draws again.
        """
        return derive_generator(self.seed, "step", role, self.index if index is None else index)


class Partner(NamedTuple):
    """A network that is deployed beside a defense's own.

    Attributes:
        bits: its bit-width.
        seed: 0 for the training seed of the defense's own network, else another one.
        defended: trained by the same defense, or the undefended float network.
    """

    bits: Bits
    seed: int
    defended: bool = True


class SwitchableNetwork(Protocol):
    """One set of weights that answers at several bit-widths."""

    def at(self, bits: Bits) -> Network:
        """The network at `bits`, in its current mode; a later call to `at` switches it again."""

    def observed(self, bits: Bits, images: torch.Tensor, layers: tuple[str, ...]) -> Observed:
        """Logits and the outputs of `layers`, if any, at `bits`, with their graph.

        Their gradient may be differentiated again; that of `at` only once, since its network may be compiled.
        """

    def early_layers(self, images: torch.Tensor) -> tuple[str, ...]:
        """Layers whose features are compared where a defense names none: early ones, the last stage left out."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Eval mode inside: running statistics and observers stay as they are, and no gradient reaches a parameter.

        For attacks on the network as it stands; a loss that is to train it is computed outside.
        """


class Defense(Component, ABC):
    """Decides the loss of a training step and, where it needs to, the gradients that follow.

    Attributes:
        quantization_aware: whether it trains quantizers.
        calibrates: whether a bit-width that `active_bits` adds during training is calibrated on held-out images
            before its first step: scales and BatchNorm statistics, but no weight.
    """

    quantization_aware: ClassVar[bool] = True
    calibrates: ClassVar[bool] = False

    @property
    def wants_pool(self) -> bool:
        """Whether it trains on the suite's patch pool."""
        return False

    def bit_groups(self, bits: tuple[Bits, ...]) -> tuple[tuple[Bits, ...], ...]:
        """Partition `bits` into sets that share weights; each set is trained as one network."""
        return (bits,)

    def active_bits(self, epoch_fraction: float, bits: tuple[Bits, ...]) -> tuple[Bits, ...]:
        """The bit-widths trained at this point of a curriculum."""
        return bits

    @property
    def least_batch(self) -> int:
        """Images that a batch needs at least, for example one to leave clean and one to attack."""
        return 1

    def passes(self, bits: tuple[Bits, ...]) -> float:
        """Forward passes of one image per step, a backward pass counted as two; for estimates only."""
        return 3.0 * len(bits)

    def graphs_at_once(self, bits: tuple[Bits, ...]) -> int:
        """Forward passes of a batch whose activations a step holds at once; for estimates only."""
        return len(bits)

    @property
    def compared_layers(self) -> tuple[str, ...] | None:
        """Layers whose features it compares between bit-widths; () for the network's early ones, None for none."""
        return None

    @abstractmethod
    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Named loss terms, scalars with a graph; the loop sums and differentiates them."""

    def baseline(self) -> Defense | None:
        """The same defense with every penalty weight at zero, which trains as plain cross-entropy does, bit for bit.

        None, where no values of its fields do that.
        """
        return None

    def after_backward(self, parameters: list[torch.nn.Parameter], step: Step) -> None:  # noqa: B027
        """Change gradients in place before the optimiser step; by default nothing."""

    def partners(self, bits: Bits) -> tuple[Partner, ...]:
        """Further networks that answer together with the one at `bits`; of an ensemble."""
        return ()

    def combined(self, networks: Sequence[torch.nn.Module]) -> torch.nn.Module:
        """One network out of the defense's own, which comes first, and its partners.

        Where its gradient would be useless to an attack, it has an attribute `expected`: a differentiable stand-in.
        """
        raise NotImplementedError(f"{self.name} has partners and does not say how they answer together")


class FixedBitsDefense(Defense):
    """Adversarial training that knows one network: at one bit-width, unless all widths are asked to share it."""

    joint: bool = Field(
        default=False,
        description="false: one network per bit-width, attacked and trained at it; true (own choice): all share one "
        "set of weights, each step's attack is made at one random width and trained on at every width",
    )

    def bit_groups(self, bits: tuple[Bits, ...]) -> tuple[tuple[Bits, ...], ...]:
        """One group each, or one group of all bits."""
        return (bits,) if self.joint else tuple((width,) for width in bits)
