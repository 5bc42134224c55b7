"""Agreement of the maps at fewer bits with those at the most bits of a backbone, as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field

from qpatchbench.ops.maps.similarity import chance_corrected
from qpatchbench.types import Bits

Content: TypeAlias = Literal["clean", "patched", "perturbed"]

# What one network shows of N images and what another does -> (N,).
Compare: TypeAlias = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]

_SHIFTS = 16


class Agreement(BaseModel):
    """One measure of one bit-width against the widest, over images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Content = Field(description="perturbed: by PGD, on the widest network")
    layer: str = Field(description="where the maps are from; input gradient, or the layer of Grad-CAM")
    reference_bits: str = Field(description="32, 4, w4a8, ...; the widest of the backbone")
    bits: str = Field(description="what is compared with it")
    metric: Literal["cosine", "mse", "iou"]
    value: float = Field(description="mean over the images")
    standard_error: float | None = Field(description="of the mean; none for a single image")
    chance: float | None = Field(description="value for maps that have nothing in common; none for mse")
    corrected: float | None = Field(description="(value - chance) / (1 - chance); none for mse")
    n_images: int
    n_blank: int = Field(description="images of which the network at `bits` shows nothing: a map of zeros")


def agreement(
    content: Content,
    layer: str,
    pair: tuple[Bits, Bits],
    metric: Literal["cosine", "mse", "iou"],
    values: torch.Tensor,
    chance: float | None,
    blank: int,
) -> Agreement:
    """A row.

    Args:
        content: which images.
        layer: where the maps are from.
        pair: the widest network and the one that is compared with it.
        metric: what the values are.
        values: (N,), one per image.
        chance: the value for maps that have nothing in common, below 1.
        blank: images without any map.
    """
    each = values.double()
    value, count = float(each.mean()), len(each)
    return Agreement(
        images=content,
        layer=layer,
        reference_bits=str(pair[0]),
        bits=str(pair[1]),
        metric=metric,
        value=value,
        standard_error=float(each.std()) / count**0.5 if count > 1 else None,
        chance=chance,
        corrected=None if chance is None else chance_corrected(value, chance),
        n_images=count,
        n_blank=blank,
    )


def against_most_bits(maps: Mapping[Bits, torch.Tensor]) -> Iterator[tuple[tuple[Bits, Bits], torch.Tensor]]:
    """((most bits, fewer), maps at the fewer), in falling order of bits; nothing where there is one bit-width."""
    reference, *others = sorted(maps, reverse=True)
    for bits in others:
        yield (reference, bits), maps[bits]


def blank_maps(maps: torch.Tensor) -> int:
    """How many of N maps (N, ...) are zero everywhere."""
    return int((maps.flatten(1) == 0).all(dim=1).sum())


def of_other_images(compare: Compare, first: torch.Tensor, second: torch.Tensor) -> float | None:
    """Mean of `compare` between the map of one image and that of another: what networks that agree on no image get.

    Every image meets up to 16 others, spread evenly over the set; None for a single image.
    """
    count = len(first)
    if count < 2:
        return None
    shifts = sorted({1 + step * (count - 1) // _SHIFTS for step in range(_SHIFTS)})
    return float(torch.stack([compare(first, second.roll(shift, 0)).double().mean() for shift in shifts]).mean())
