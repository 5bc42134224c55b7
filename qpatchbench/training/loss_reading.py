"""Loss terms of a training, read from the device every few steps: a host that reads each step waits at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from qpatchbench.errors import TrainingError

EVERY = 16  # steps between two readings


class LossReading:
    """Sums of every loss term over an epoch.

    Args:
        batches: steps of an epoch.

    Attributes:
        figures: the terms of the step that was read last.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.figures: dict[str, float] = {}
        self._sums: dict[str, float] = {}
        self._waiting: list[tuple[int, Mapping[str, torch.Tensor]]] = []

    def begin(self, sums: Mapping[str, float]) -> None:
        """An epoch, of which the steps before now came to `sums`."""
        self._sums = dict(sums)

    def note(self, terms: Mapping[str, torch.Tensor], step: int) -> None:
        """The terms of a step of the training, counted from 0.

        Raises:
            TrainingError: one of this or an earlier step is not finite; names step and term.
        """
        self._waiting.append((step, terms))
        if len(self._waiting) >= EVERY or not self.figures:
            self._read()

    def sums(self) -> dict[str, float]:
        """Every term, summed over the steps of the epoch.

        Raises:
            TrainingError: as `note`.
        """
        self._read()
        return dict(self._sums)

    def _read(self) -> None:
        values = [value for _, terms in self._waiting for value in terms.values()]
        read = iter(torch.stack(values).tolist() if values else [])
        for step, terms in self._waiting:
            self.figures = {name: next(read) for name in terms}
            for name, value in self.figures.items():
                self._require_finite(name, value, step)
                self._sums[name] = self._sums.get(name, 0.0) + value
        self._waiting = []

    def _require_finite(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            epoch, index = divmod(step, self.batches)
            raise TrainingError(
                f"loss term {name!r} became {value} in epoch {epoch + 1}, step {index + 1}; expected a finite "
                "number. A smaller learning_rate or a gradient_clip usually helps"
            )
