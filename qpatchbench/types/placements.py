"""Places of a patch, and moves of a finished one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from qpatchbench.types.written import shortest


@dataclass(frozen=True)
class Placement:
    """Where a patch lies on each of B images.

    Attributes:
        rows, columns: (B,) int64, top-left pixel of the unrotated patch, inclusive of the last position.
        angles: (B,) float32, degrees, counter-clockwise about the patch centre.
        scales: (B,) float32, 1 = native size.
        upright: known to be neither rotated nor scaled, without a look at the tensors, for which a host waits.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    angles: torch.Tensor
    scales: torch.Tensor
    upright: bool = field(default=False, kw_only=True)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | torch.Tensor) -> Placement:
        return Placement(*(tensor[index] for tensor in self._tensors), upright=self.upright)

    @classmethod
    def concatenated(cls, parts: Sequence[Placement]) -> Placement:
        """All placements in one, in order."""
        columns = zip(*(part._tensors for part in parts), strict=True)
        return cls(*(torch.cat(tensors) for tensors in columns), upright=all(part.upright for part in parts))

    def to(self, device: torch.device) -> Placement:
        """Copy to `device`, in as few transfers as may be; the same object where it lies there."""
        if device == self.rows.device:
            return self
        if self.upright:
            rows, columns = torch.stack((self.rows, self.columns)).to(device)
            flat = torch.zeros(rows.shape, device=device)
            return Placement(rows, columns, flat, flat + 1, upright=True)
        return Placement(*(tensor.to(device) for tensor in self._tensors), upright=self.upright)

    @property
    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return self.rows, self.columns, self.angles, self.scales


@dataclass(frozen=True, order=True)
class Transformation:
    """How a finished patch is moved before it is measured.

    Attributes:
        rows, columns: shift in pixels; positions wrap around the last one that keeps the patch inside the image.
        angle: further rotation, degrees.
    """

    rows: int = 0
    columns: int = 0
    angle: float = 0.0

    def __str__(self) -> str:
        shift = f"shift {self.rows},{self.columns}" if self.rows or self.columns else ""
        return " ".join(part for part in (shift, f"rotation {shortest(self.angle)}" if self.angle else "") if part)
