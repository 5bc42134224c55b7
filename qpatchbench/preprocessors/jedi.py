"""Jedi (Tarchoun, Ben Khalifa, Mahjoub, Abu-Ghazaleh, Alouani 2023, CVPR, section 4): patches have much entropy.

1. Entropy of the grey image in windows of three sizes w, 1.5 w and 2 w.
2. A window is suspect where its entropy exceeds a threshold that follows the image's own mean entropy:

       (mu_p + 1.5 sd_p) - 2 sd_p (mu_p - mu_c) / mu_p + sd_p (mean - mu_c) / sd_c

   of patches (p) and clean images (c). A pixel is suspect if it is so at any of the sizes; specks are dropped.
3. An autoencoder that knows only masks of patches completes what was found; above 0.33 it says patch.
4. What lies below is filled from its rim.

Own choices, where the paper's are for large images or are not published: mu and sd are measured over the windows of
the calibration images, and for patches over those of noise of contrast 2 to 4, clipped, which in windows of 8, 12 and
16 pixels gives about the published values (5.28 0.35, 6.04 0.31, 6.39 0.39 for 5.32 0.32, 6.06 0.34, 6.47 0.35). The
windows start at 4 pixels on images below 100 pixels, since 8 would be wider than their patches. The autoencoder sees
masks of 32 x 32 pixels, and is trained by Adam instead of scaled conjugate gradients. Holes are filled harmonically
instead of by coherence transport.

On images of 32 pixels a window holds too few pixels to tell a patch from texture: expect little there. And the
threshold lies above the mean of patches: one of few colours, such as saturated noise, is below it and not seen.
Masks have no gradient, and attacks follow the identity in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from qpatchbench.ops.maps.entropy import entropy_map, filled, grey_levels, without_specks
from qpatchbench.ops.training.mask_autoencoder import GRID, completed, trained_on, whole_masks
from qpatchbench.preprocessors.base import Preprocessor


class Jedi(Preprocessor):
    """Finds where entropy is high, completes the shape, and fills it from around."""

    differentiable: ClassVar[bool] = False
    trial: ClassVar[Mapping[str, int]] = {"epochs": 2}

    window: int | None = Field(
        default=None,
        ge=2,
        description="smallest window, even; by default 8, or 1 % of the image where that is more, and 4 below 100",
        json_schema_extra={"unit": "pixels"},
    )
    epochs: int = Field(default=100, ge=1, description="of the autoencoder, over 512 masks of squares")
    complete: bool = Field(default=True, description="whether the autoencoder completes the mask; else it is as found")
    cut: float = Field(default=0.33, gt=0, lt=1, description="output of the autoencoder above which a pixel is patch")
    speck: float = Field(default=0.005, ge=0, lt=1, description="share of the image below which a part is dropped")

    def fit(self, calibration: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Mean and deviation of entropy (3 windows, 4: mu_p, sd_p, mu_c, sd_c), and the autoencoder's weights."""
        generator = torch.Generator().manual_seed(0)
        grey = grey_levels(calibration)
        noise = grey_levels(noise_like(calibration, generator))
        constants = []
        for window in self.windows(calibration.shape[-1]):
            patches, clean = entropy_map(noise, window), entropy_map(grey, window)
            constants.append([patches.mean(), patches.std(), clean.mean(), clean.std()])
        state = {"constants": torch.tensor(constants)}
        return {**state, **trained_on(whole_masks(512, generator), self.epochs, generator)} if self.complete else state

    def windows(self, side: int) -> tuple[int, int, int]:
        """The three window sizes for images of a side, pixels, all even."""
        first = _even(self.window or (4 if side < 100 else max(8, side / 100)))
        return first, _even(1.5 * first), 2 * first

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the same, with suspect pixels filled from around; nothing is drawn."""
        masks = self.suspect(images.detach(), state).cpu().numpy()
        pixels = images.detach().cpu().numpy()
        clean = [filled(image, mask) for image, mask in zip(pixels, masks, strict=True)]
        return torch.from_numpy(np.stack(clean)).to(images)

    def suspect(self, images: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images (B, 3, H, W) -> (B, H, W) bool: what is taken for a patch."""
        found = self.found(images, state)
        if not self.complete:
            return found
        small = torch.nn.functional.adaptive_avg_pool2d(found.float()[:, None], GRID)[:, 0]
        shapes = completed(small, state) > self.cut
        shapes &= found.flatten(1).any(dim=1)[:, None, None]  # where nothing was found there is nothing to complete
        large = torch.nn.functional.interpolate(shapes.float()[:, None], images.shape[-2:], mode="nearest")
        return large[:, 0] > 0

    def found(self, images: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images (B, 3, H, W) -> (B, H, W) bool: where entropy exceeds the threshold, without specks."""
        grey = grey_levels(images.float())
        exceeding = torch.zeros_like(grey, dtype=torch.bool)
        for window, row in zip(self.windows(images.shape[-1]), state["constants"].float(), strict=True):
            patch_mean, patch_deviation, clean_mean, clean_deviation = row
            entropy = entropy_map(grey, window)
            base = patch_mean + 1.5 * patch_deviation - 2 * patch_deviation * (patch_mean - clean_mean) / patch_mean
            own = (entropy.mean(dim=(1, 2)) - clean_mean) / clean_deviation.clamp(min=1e-6)
            exceeding |= entropy > (base + own * patch_deviation)[:, None, None]
        kept = [without_specks(mask, self.speck) for mask in exceeding.cpu().numpy()]
        return torch.from_numpy(np.stack(kept)).to(images.device)


def noise_like(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Uniform noise of contrast 2 to 4 about grey, clipped to [0, 1]; of the shape (B, 3, H, W) of the images."""
    draws = torch.rand(images.shape, generator=generator)
    contrast = 2 + 2 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (0.5 + contrast * (draws - 0.5)).clamp(0, 1).to(images)


def _even(value: float) -> int:
    """The next even number."""
    return 2 * -int(-value // 2)
