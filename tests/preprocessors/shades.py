"""Preprocessors for tests: the identity, a blindfold, one without a gradient, one that draws, one that learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field

from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.registry import Entry

State = Mapping[str, torch.Tensor]


class Window(Preprocessor):
    """The identity, under another name."""

    def apply(self, images: torch.Tensor, state: State, generator: torch.Generator) -> torch.Tensor:
        """The images."""
        return images


class Blindfold(Preprocessor):
    """Everything grey."""

    def apply(self, images: torch.Tensor, state: State, generator: torch.Generator) -> torch.Tensor:
        """0.5 everywhere, with a graph."""
        return 0 * images + 0.5


class Depth(Preprocessor):
    """Fewer levels per colour, whose gradient is zero almost everywhere (Xu et al. 2018, arXiv 1704.01155)."""

    differentiable: ClassVar[bool] = False

    depth: int = Field(default=3, ge=1, le=8, description="bits per colour")

    def apply(self, images: torch.Tensor, state: State, generator: torch.Generator) -> torch.Tensor:
        """Rounded to 2^depth levels."""
        steps = torch.tensor(2**self.depth - 1)
        return (images * steps).round() / steps


class Jitter(Preprocessor):
    """A random brightness for every image."""

    randomized: ClassVar[bool] = True

    def apply(self, images: torch.Tensor, state: State, generator: torch.Generator) -> torch.Tensor:
        """Darker by up to a half."""
        factors = 1 - 0.5 * torch.rand(len(images), generator=generator)
        return images * factors.to(images.device)[:, None, None, None]


class Centred(Preprocessor):
    """Moves the mean brightness of an image to that of the calibration images."""

    def fit(self, calibration: torch.Tensor) -> State:
        """The mean."""
        return {"mean.of_all": calibration.mean(dim=(0, 2, 3))}

    def apply(self, images: torch.Tensor, state: State, generator: torch.Generator) -> torch.Tensor:
        """Moved and clipped."""
        wanted = state["mean.of_all"][:, None, None]
        return (images - images.mean(dim=(2, 3), keepdim=True) + wanted).clamp(0, 1)


CATALOGUES = {
    "preprocessors": {
        "window": Entry(f"{__name__}:Window", "the identity"),
        "blindfold": Entry(f"{__name__}:Blindfold", "everything grey"),
        "depth": Entry(f"{__name__}:Depth", "fewer levels per colour"),
        "jitter": Entry(f"{__name__}:Jitter", "a random brightness"),
        "centred": Entry(f"{__name__}:Centred", "a fixed mean brightness"),
    }
}
