"""Local gradient smoothing (Naseer, Khan, Porikli 2019, WACV, arXiv 1807.01216, section 4).

A patch that fools a network is usually rough: its colours jump from pixel to pixel. Where the image is rough, it is
darkened:

    g  = (|grad I| - min) / (max - min)                              equations 2 and 3
    g' = g in windows whose mean of g exceeds the threshold, else 0   equation 4
    I' = I * (1 - clip(smoothing * g', 0, 1))                        equation 5

The paper's windows of 15 pixels with an overlap of 5 are for images of 299 pixels; the defaults here, 5 and 2, are
those for 32 (own choice). What the paper leaves open: |grad I| is that of the luminance (Rec. 601), by forward
differences, and a pixel in several windows counts as rough if one of them is. Windows start at the top-left corner, and
the last ones are flush with the right and the lower border, so that no pixel escapes. A range of gradients below one
grey level is rounding, and is not stretched to 0..1.

Where smoothing * g' exceeds 1 the image is black and gives no gradient, which is what made the method look strong.
Attacks therefore follow the identity in its place (`differentiable` is false), as Chiang et al. 2020 (arXiv 2003.06693)
did when they broke it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from pydantic import Field, model_validator

from qpatchbench.errors import QPatchBenchError
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.types import Announced

LUMINANCE = (0.299, 0.587, 0.114)
GREY_LEVEL = 1 / 255
FLAT = 1e-12  # added under the root, whose slope at zero is infinite


class Lgs(Preprocessor):
    """Darkens the image where it is rough."""

    differentiable: ClassVar[bool] = False

    window: int = Field(
        default=5, ge=2, description="side of a window; 15 for 299-pixel images", json_schema_extra={"unit": "pixels"}
    )
    overlap: int = Field(
        default=2,
        ge=0,
        description="what neighbouring windows share; 5 for 299-pixel images",
        json_schema_extra={"unit": "pixels"},
    )
    threshold: float = Field(default=0.1, ge=0, le=1, description="mean of g above which a window is rough")
    smoothing: float = Field(default=2.3, ge=0, description="how much g darkens; 0 changes nothing")

    @model_validator(mode="after")
    def _windows_move_on(self) -> Lgs:
        if self.overlap >= self.window:
            raise ValueError(f"expected an overlap below the window, {self.window}, found {self.overlap}")
        return self

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """The images are smaller than a window."""
        if known.side < self.window:
            yield "window", f"expected at most the side of the images, {known.side} pixels, found {self.window}"

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the same, between black and what they were; nothing is learnt or drawn.

        Raises:
            QPatchBenchError: the images are smaller than a window.
        """
        if min(images.shape[-2:]) < self.window:
            raise QPatchBenchError(
                f"{self.title}: expected images of at least one window, {self.window} pixels, found "
                f"{images.shape[-2]} x {images.shape[-1]}; set window to less"
            )
        gradient = normalised_gradient(images)
        rough = gradient * rough_windows(gradient, self.window, self.window - self.overlap, self.threshold)
        return images * (1 - (self.smoothing * rough).clamp(0, 1))


def normalised_gradient(images: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) -> magnitude of the luminance's gradient (B, 1, H, W), from 0 to 1 in every image."""
    weights = images.new_tensor(LUMINANCE).view(1, 3, 1, 1)
    luminance = (images * weights).sum(dim=1, keepdim=True)
    # The last row and column have the difference of those before them: a border is no edge.
    across = torch.nn.functional.pad(luminance.diff(dim=3), (0, 1, 0, 0), mode="replicate")
    down = torch.nn.functional.pad(luminance.diff(dim=2), (0, 0, 0, 1), mode="replicate")
    magnitude = (across.square() + down.square() + FLAT).sqrt()
    lowest, highest = magnitude.amin(dim=(2, 3), keepdim=True), magnitude.amax(dim=(2, 3), keepdim=True)
    return (magnitude - lowest) / (highest - lowest).clamp(min=GREY_LEVEL)


def rough_windows(gradient: torch.Tensor, window: int, stride: int, threshold: float) -> torch.Tensor:
    """Gradient (B, 1, H, W) -> 1 for pixels in a window whose mean exceeds `threshold`, else 0; same shape."""
    height, width = gradient.shape[-2:]
    tops, lefts = starts(height, window, stride), starts(width, window, stride)
    means = torch.nn.functional.avg_pool2d(gradient, window, stride=1)[..., tops, :][..., lefts]
    exceeding = (means > threshold).to(gradient)
    rows, columns = inside(tops, window, height).to(gradient), inside(lefts, window, width).to(gradient)
    return (rows.T @ exceeding @ columns > 0).to(gradient)


def starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side; the last window ends at the border."""
    return [*range(0, length - window, stride), length - window]


def inside(first: list[int], window: int, length: int) -> torch.Tensor:
    """(windows, length) bool: which pixels are in which window."""
    offset = torch.arange(length) - torch.tensor(first).view(-1, 1)
    return (offset >= 0) & (offset < window)
