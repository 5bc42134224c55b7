"""Labelled images."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ImageSet:
    """N labelled images.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        labels: (N,) int64.
        ids: N names, unique in their dataset and stable between machines.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Height and width, pixels."""
        return int(self.pixels.shape[-1])

    def __getitem__(self, index: slice) -> ImageSet:
        return ImageSet(self.pixels[index], self.labels[index], self.ids[index])

    def chosen(self, index: torch.Tensor) -> ImageSet:
        """Some of the images, by position (M,) int64 or by a mask (N,) bool."""
        places = (index.nonzero().flatten() if index.dtype == torch.bool else index).cpu()
        own = places.to(self.pixels.device)
        return ImageSet(self.pixels[own], self.labels[own], tuple(self.ids[place] for place in places.tolist()))

    def to(self, device: torch.device) -> ImageSet:
        """Copy to `device`."""
        return ImageSet(self.pixels.to(device), self.labels.to(device), self.ids)
