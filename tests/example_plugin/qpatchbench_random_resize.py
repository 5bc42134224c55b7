"""Random resizing and padding (Xie, Wang, Zhang, Ren, Yuille 2018, ICLR, arXiv 1711.01991, section 3.2).

A patch that fools a network was made for its pixels as they lie. Each image is shrunk to a random side and put at a
random place of a black canvas as large as it was:

    r ~ U{smallest, ..., H},   x' = pad(resize(x, r)) with rows and columns ~ U{0, ..., H - r}   section 3.2

The paper enlarges images of 299 pixels to 310..330 on a canvas of 331, for a network that takes any size. Here images
keep their size, and shrink instead (own choice). Resizing is to the nearest pixel, as in the authors' code. Its
gradient is exact, and attacks average over many draws, as the expectation over transformations of Athalye et al. 2018
(arXiv 1802.00420) did when they broke it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from qpatchbench.preprocessors.base import Preprocessor


class RandomResize(Preprocessor):
    """Shrinks every image at random, and puts it somewhere on black."""

    reference: ClassVar[str] = (
        "Xie, Wang, Zhang, Ren, Yuille 2018, Mitigating Adversarial Effects Through Randomization, ICLR, "
        "arXiv 1711.01991"
    )
    version: ClassVar[int] = 1  # bump it when a change of code alters numbers
    differentiable: ClassVar[bool] = True
    randomized: ClassVar[bool] = True

    smallest: float = Field(default=0.9, gt=0, le=1, description="least side, as a share of the image's; 1 draws none")

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the same, smaller and on black; three draws an image, nothing is learnt."""
        return torch.stack([self._one(image, torch.rand(3, generator=generator).tolist()) for image in images])

    def _one(self, image: torch.Tensor, draws: list[float]) -> torch.Tensor:
        """Image (3, H, W) and draws of scale, row and column in [0, 1) -> (3, H, W)."""
        height, width = image.shape[-2:]
        rows, columns = (between(side, self.smallest, draws[0]) for side in (height, width))
        small = image[:, nearest(height, rows).to(image.device)][:, :, nearest(width, columns).to(image.device)]
        top, left = int(draws[1] * (height - rows + 1)), int(draws[2] * (width - columns + 1))
        around = (left, width - columns - left, top, height - rows - top)
        return torch.nn.functional.pad(small, around)


def between(side: int, smallest: float, draw: float) -> int:
    """A side from `smallest` of it to all of it, each as likely, by a draw in [0, 1).

    >>> [between(10, 0.8, draw) for draw in (0.0, 0.34, 0.99)]
    [8, 9, 10]
    """
    least = max(1, round(smallest * side))
    return least + int(draw * (side - least + 1))


def nearest(length: int, wanted: int) -> torch.Tensor:
    """(wanted,) positions of the pixels that a side shrunk to `wanted` pixels keeps.

    >>> nearest(6, 4).tolist()
    [0, 1, 3, 4]
    """
    return torch.arange(wanted) * length // wanted
