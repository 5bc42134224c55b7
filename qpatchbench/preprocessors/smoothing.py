"""Median smoothing (Xu, Evans, Qi 2018, Feature squeezing, NDSS, arXiv 1704.01155, section III-B).

Every colour of every pixel becomes the median of its window; beyond the border the image is mirrored. Of an even
number of values the upper middle one is taken, as in the authors' code (scipy.ndimage.median_filter). The gradient is
exact: it goes to the pixel that is the median.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from pydantic import Field

from qpatchbench.errors import QPatchBenchError
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.types import Announced


class Smoothing(Preprocessor):
    """Replaces every pixel by the median of its surroundings."""

    window: int = Field(
        default=2, ge=2, description="side of the window; the paper's choice is 2", json_schema_extra={"unit": "pixels"}
    )

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """The images are smaller than a window."""
        if known.side < self.window:
            yield "window", f"expected at most the side of the images, {known.side} pixels, found {self.window}"

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> their medians; nothing is learnt or drawn.

        Raises:
            QPatchBenchError: the images are smaller than a window.
        """
        if min(images.shape[-2:]) < self.window:
            raise QPatchBenchError(
                f"{self.title}: expected images of at least one window, {self.window} pixels, found "
                f"{images.shape[-2]} x {images.shape[-1]}; set window to less"
            )
        rows, columns = (mirrored(length, self.window).to(images.device) for length in images.shape[-2:])
        windows = images[..., rows, :][..., columns].unfold(2, self.window, 1).unfold(3, self.window, 1)
        return windows.flatten(-2).sort(dim=-1).values[..., self.window**2 // 2]


def mirrored(length: int, window: int) -> torch.Tensor:
    """Positions of a side's pixels with `window` - 1 more, mirrored at the borders, so that every pixel has a window.

    >>> mirrored(4, 3).tolist()
    [0, 0, 1, 2, 3, 3]
    """
    places = torch.arange(-(window // 2), length + (window - 1) // 2)
    places = torch.where(places < 0, -1 - places, places)
    return torch.where(places >= length, 2 * length - 1 - places, places)
