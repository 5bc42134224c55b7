"""A deployed file that is open: what answers, and what the file says of its input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from qpatchbench.types import StatedLayer

Answer = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Opened:
    """What a runtime made of a file.

    Attributes:
        answer: a batch as the file takes it -> (B, K).
        shape: of its input, None for what may vary; () where the file says nothing.
        dtype: of its input.
        layers: inputs -> the operators that multiply by weights; None where the file does not tell.
    """

    answer: Answer
    shape: tuple[int | None, ...] = ()
    dtype: torch.dtype = torch.float32
    layers: Callable[[torch.Tensor], tuple[StatedLayer, ...]] | None = None
