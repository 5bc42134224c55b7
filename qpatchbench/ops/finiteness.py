"""A note, step by step, of whether values were finite, that the host reads rarely: each time it asks, it waits."""

from __future__ import annotations

import torch


class FiniteSteps:
    """Notes on the device of the values."""

    def __init__(self) -> None:
        self._notes: list[torch.Tensor] = []
        self._steps: list[int] = []

    def note(self, values: torch.Tensor, step: int) -> None:
        """Remember whether all values of a step are finite, without asking."""
        self._notes.append(torch.isfinite(values.detach()).all())
        self._steps.append(step)

    def first_failure(self) -> int | None:
        """The first step since the last call whose values were not all finite; None where there is none."""
        if not self._notes:
            return None
        finite, steps = torch.stack(self._notes).tolist(), self._steps
        self._notes, self._steps = [], []
        return next((step for step, fine in zip(steps, finite, strict=True) if not fine), None)
