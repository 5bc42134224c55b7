"""A network whose logits are linear in the images, and that remembers what it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from qpatchbench.defenses.base import Batch, Observed, Step
from qpatchbench.types import Bits, Network
from tests.training.conftest import CLASSES, SIDE

EIGHT, FOUR, TWO = map(Bits.parse, (8, 4, 2))


class Call(NamedTuple):
    """One forward pass: at which bits, of which images, in eval mode, and whether for a gradient of the images."""

    bits: Bits
    images: torch.Tensor
    eval: bool
    graded: bool


class Watched:
    """Implements `SwitchableNetwork`; every width answers a little differently."""

    def __init__(self, seed: int = 1, classes: int = CLASSES) -> None:
        weight = 0.1 * torch.randn(3 * SIDE * SIDE, classes, generator=torch.Generator().manual_seed(seed))
        self.weight = torch.nn.Parameter(weight)  # small: no softmax saturates
        self.calls: list[Call] = []
        self.eval = False

    def logits(self, images: torch.Tensor, bits: Bits) -> torch.Tensor:
        return images.flatten(1) @ (self.weight * (1 + 1 / bits.weight))

    def at(self, bits: Bits) -> Network:
        def answer(images: torch.Tensor) -> torch.Tensor:
            self.calls.append(Call(bits, images.detach().clone(), self.eval, images.requires_grad))
            return self.logits(images, bits)

        return answer

    def observed(self, bits: Bits, images: torch.Tensor, layers: tuple[str, ...]) -> Observed:
        raise AssertionError("these defenses look at no layer")

    def early_layers(self, images: torch.Tensor) -> tuple[str, ...]:
        raise AssertionError("these defenses look at no layer")

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        self.eval = True
        yield
        self.eval = False

    @property
    def trained(self) -> list[Call]:
        return [call for call in self.calls if not call.eval]

    @property
    def attacked(self) -> list[Call]:
        return [call for call in self.calls if call.eval]


def step(index: int = 0, bits: tuple[Bits, ...] = (FOUR,), seed: int = 0) -> Step:
    return Step(0.0, bits, torch.Generator(), index, seed)


def batch(count: int = 12) -> Batch:
    pixels = torch.rand(40, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    images = (pixels * 1.4 - 0.2).clamp(0, 1)  # the ends of [0, 1] occur
    return Batch(images[:count], (torch.arange(40) % CLASSES)[:count])
