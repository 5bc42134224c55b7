"""Forward and backward passes, counted in images at the networks: what an attack cost, whatever it reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Passes:
    """Images shown to networks, and images whose gradient was taken; an image shown twice counts twice."""

    forward: int = 0
    backward: int = 0


@contextmanager
def counted_passes(networks: Iterable[torch.nn.Module]) -> Iterator[Passes]:
    """Counts, as long as the context lasts, what passes through any of the networks; their results do not change.

    Args:
        networks: images (B, 3, H, W) -> logits; one that is named twice is counted once.
    """
    passes = Passes()

    def returned(gradient: torch.Tensor) -> None:
        passes.backward += len(gradient)

    def answered(module: torch.nn.Module, inputs: tuple[Any, ...], logits: torch.Tensor) -> None:
        passes.forward += len(logits)
        if logits.requires_grad:
            # Of the logits, not of the images: those may be shown to several networks, only one of which is followed.
            logits.register_hook(returned)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    handles = [network.register_forward_hook(answered) for network in set(networks)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()
