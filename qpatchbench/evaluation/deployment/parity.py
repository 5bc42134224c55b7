"""Agreement of a runtime's predictions with those of the simulation, and how long an image takes there."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from qpatchbench.types import Network

WARM_UP, TIMED = 3, 20


class Parity(NamedTuple):
    """How far two networks answer alike.

    Attributes:
        images: how many were shown.
        agreeing: on how many both predict the same class.
        largest: largest difference of two logits, relative to the largest logit.
    """

    images: int
    agreeing: int
    largest: float

    @property
    def share(self) -> float:
        """Of images on which they agree."""
        return self.agreeing / max(1, self.images)


@torch.no_grad()
def parity(simulated: Network, runtime: Network, images: torch.Tensor, batch_size: int) -> Parity:
    """Show both the same images (N, 3, H, W) in [0, 1]."""
    agreeing, apart, largest = 0, 0.0, 0.0
    for part in torch.split(images, batch_size):
        ours, theirs = simulated(part).cpu(), runtime(part).cpu()
        agreeing += int((ours.argmax(1) == theirs.argmax(1)).sum())
        apart, largest = max(apart, float((ours - theirs).abs().max())), max(largest, float(ours.abs().max()))
    return Parity(len(images), agreeing, apart / max(largest, 1e-30))


@torch.no_grad()
def latency(network: Network, image: torch.Tensor) -> float:
    """Median milliseconds for one image (1, 3, H, W), after a few for warming up."""
    spent = []
    for number in range(WARM_UP + TIMED):
        start = time.perf_counter()
        network(image)
        if number >= WARM_UP:
            spent.append(time.perf_counter() - start)
    return 1000 * sorted(spent)[len(spent) // 2]
