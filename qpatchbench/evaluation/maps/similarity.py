"""Similarity of the bit-widths of one deployed backbone, in early features and in input gradients.

The measurements behind TriQDef (Guesmi, Ouni, Shafique 2026, ICLR, arXiv 2508.12132), figure 2 and tables 3 and 12:
edge IoU, SoftDice and cosines of HOG and SoftHOG descriptors, of features as the next layer computes with them; the
same of input gradients, with their plain cosine and, as in figure 4 of the same authors' QADT-R (2025, arXiv
2503.07058), their mean squared error. Both papers print figures without the level of chance, which is 0.77 for the HOG
cosine of independent noise; here each has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Literal, NamedTuple, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field

from qpatchbench.errors import QPatchBenchError, suggestion
from qpatchbench.ops.loss_gradient import loss_gradient
from qpatchbench.ops.maps.edges import hard_edges, soft_edges
from qpatchbench.ops.maps.hog import SMALLEST_SIDE, hog, soft_hog
from qpatchbench.ops.maps.similarity import (
    chance_corrected,
    chance_level,
    cosine,
    intersection_over_union,
    mean_squared_error,
    prepared,
    soft_dice,
)
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.quantizers.inspection.taps import Taps
from qpatchbench.types import Bits, ImageSet

INPUT_GRADIENT = "input gradient"
MetricName: TypeAlias = Literal["edge_iou", "soft_dice", "hog_cosine", "soft_hog_cosine", "cosine", "mse"]
Content: TypeAlias = Literal["clean", "patched"]

_CHANCE_PIXELS, _FEWEST_DRAWS = 2**19, 64


class Similarity(BaseModel):
    """One measure of one pair of bit-widths at one place of the network, over images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Content
    layer: str = Field(description="name of the module whose output is compared, or input gradient")
    first_bits: str = Field(description="32, 4, w4a8, ...; the wider of the two")
    second_bits: str = Field(description="the narrower of the two")
    metric: MetricName
    value: float = Field(description="mean over the images")
    standard_error: float | None = Field(description="of the mean; none for a single image")
    chance: float | None = Field(description="value for independent noise; none for mse, which is no similarity")
    corrected: float | None = Field(description="(value - chance) / (1 - chance); none for mse")
    n_images: int


class _Metric(NamedTuple):
    """Prepared maps (B, h, w) -> descriptors, and two of them -> (B,)."""

    describe: Callable[[torch.Tensor], torch.Tensor]
    compare: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    smallest_side: int = 1


_OF_MAPS: Mapping[MetricName, _Metric] = {
    "edge_iou": _Metric(hard_edges, intersection_over_union),
    "soft_dice": _Metric(soft_edges, soft_dice),
    "hog_cosine": _Metric(hog, cosine, SMALLEST_SIDE),
    "soft_hog_cosine": _Metric(soft_hog, cosine, SMALLEST_SIDE),
}
_COMPARE = {name: metric.compare for name, metric in _OF_MAPS.items()} | {"cosine": cosine, "mse": mean_squared_error}

_Descriptors: TypeAlias = dict[MetricName, torch.Tensor]


class _Place(NamedTuple):
    """What is compared at one layer, or of the gradient: descriptors by metric, and the size of the prepared maps."""

    descriptors: _Descriptors
    size: tuple[int, int]


def measure_similarity(
    networks: Mapping[Bits, torch.nn.Module],
    images: ImageSet,
    patched: torch.Tensor | None = None,
    layers: tuple[str, ...] | None = None,
    batch_size: int = 64,
) -> list[Similarity]:
    """Compare every two bit-widths at every layer and in their input gradients.

    The gradient is that of each image's own cross-entropy with its label, with respect to the image in [0, 1]. Its
    edges and HOG are those of its channel mean, as of features. A layer whose maps have fewer than 8 pixels a side,
    after halving those of 16 or more, has no HOG descriptor and no such rows. Two maps without any structure count as
    alike, only the plain cosine of two zero gradients is 0.

    Args:
        networks: deployed networks with modules of the same names. One whose own gradient is useless is followed
            through its attribute `expected`, as attacks do.
        images: N clean images, on the device of the networks.
        patched: the same with a patch on each, (N, 3, H, W) float32 in [0, 1]; None: clean images only.
        layers: names of convolutions; None: the early ones of the widest network; () compares gradients alone.
        batch_size: changes no figure beyond rounding.

    Returns:
        One row per content, layer, pair and metric, pairs from the widest to the narrowest.

    Raises:
        QPatchBenchError: fewer than two networks, no images, patched ones of another shape, a layer that some network
            lacks or that hands on no maps, or logits that are not finite.
    """
    widths = sorted(networks, reverse=True)
    if len(widths) < 2:
        found = ", ".join(map(str, widths)) or "none"
        raise QPatchBenchError(f"similarity compares networks of different bits: expected two or more, found {found}")
    contents = _contents(images, patched)
    taps = {bits: Taps(getattr(networks[bits], "expected", networks[bits])) for bits in widths}
    example = contents["clean"][:1]
    compared = taps[widths[0]].early_layers(example) if layers is None else layers
    _require_maps(taps, example, compared)
    return [
        row
        for content, pixels in contents.items()
        for row in _rows(
            content, taps, torch.split(pixels, batch_size), torch.split(images.labels, batch_size), compared
        )
    ]


def _contents(images: ImageSet, patched: torch.Tensor | None) -> dict[Content, torch.Tensor]:
    if not len(images):
        raise QPatchBenchError("similarity is a mean over images: expected at least one, found none")
    clean = to_float(images.pixels)
    if patched is None:
        return {"clean": clean}
    if patched.shape != clean.shape:
        raise QPatchBenchError(
            f"expected the same images with a patch on each, {tuple(clean.shape)}, found {tuple(patched.shape)}"
        )
    return {"clean": clean, "patched": patched}


def _require_maps(taps: Mapping[Bits, Taps], example: torch.Tensor, layers: tuple[str, ...]) -> None:
    for bits, own in taps.items():
        maps = own.maps(example)
        wrong = [layer for layer in layers if layer not in maps]
        if wrong:
            raise QPatchBenchError(
                f"no layer {wrong[0]!r} that hands on maps (B, C, h, w) to a convolution in the network at {bits} bits."
                f"{suggestion(wrong[0], maps)}"
            )


def _rows(
    content: Content,
    taps: Mapping[Bits, Taps],
    images: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor],
    layers: tuple[str, ...],
) -> list[Similarity]:
    values: dict[tuple[str, Bits, Bits, MetricName], list[torch.Tensor]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for pixels, classes in zip(images, labels, strict=True):
        views = {bits: _view(own, pixels, classes, layers) for bits, own in taps.items()}
        sizes = {layer: place.size for layer, place in next(iter(views.values())).items()}
        for layer, first, second, metric, each in _compared(views):
            values.setdefault((layer, first, second, metric), []).append(each.cpu().double())
    return [
        _row(content, layer, (first, second), metric, torch.cat(parts), sizes[layer])
        for (layer, first, second, metric), parts in values.items()
    ]


def _view(taps: Taps, images: torch.Tensor, labels: torch.Tensor, layers: tuple[str, ...]) -> dict[str, _Place]:
    """One network on one batch, every descriptor computed once."""
    images = images.detach().requires_grad_()
    with evaluating(taps.module), torch.enable_grad():
        logits, features = taps.observed(taps.module, images, layers)
        if not bool(torch.isfinite(logits).all()):
            raise QPatchBenchError("the network's logits are not finite: its features and gradients say nothing")
        gradient, direction = loss_gradient(logits, images, labels)
    structure = _place(direction)
    places = {layer: _place(features[layer].detach()) for layer in layers}
    return {
        **places,
        INPUT_GRADIENT: _Place({**structure.descriptors, "cosine": direction, "mse": gradient}, structure.size),
    }


def _place(values: torch.Tensor) -> _Place:
    maps = prepared(values)
    height, width = maps.shape[-2:]
    fitting = {name: metric for name, metric in _OF_MAPS.items() if min(height, width) >= metric.smallest_side}
    return _Place({name: metric.describe(maps) for name, metric in fitting.items()}, (height, width))


def _compared(
    views: Mapping[Bits, Mapping[str, _Place]],
) -> Iterator[tuple[str, Bits, Bits, MetricName, torch.Tensor]]:
    """Layer, pair, metric and (B,) values."""
    pairs = list(combinations(views, 2))
    for layer in next(iter(views.values())):
        for first, second in pairs:
            other = views[second][layer].descriptors
            for metric, descriptor in views[first][layer].descriptors.items():
                yield layer, first, second, metric, _COMPARE[metric](descriptor, other[metric])


def _row(
    content: Content,
    layer: str,
    pair: tuple[Bits, Bits],
    metric: MetricName,
    values: torch.Tensor,
    size: tuple[int, int],
) -> Similarity:
    value, count = float(values.mean()), len(values)
    chance = _chance(metric, size)
    return Similarity(
        images=content,
        layer=layer,
        first_bits=str(pair[0]),
        second_bits=str(pair[1]),
        metric=metric,
        value=value,
        standard_error=float(values.std()) / count**0.5 if count > 1 else None,
        chance=chance,
        corrected=None if chance is None else chance_corrected(value, chance),
        n_images=count,
    )


@lru_cache(maxsize=256)
def _chance(metric: MetricName, size: tuple[int, int]) -> float | None:
    """Measured once per size of the prepared maps, the same on every machine; none for a distance."""
    if metric == "mse":
        return None
    if metric == "cosine":
        return 0.0  # of independent directions, by symmetry
    describe, compare, _ = _OF_MAPS[metric]
    # Large maps hold many independent pixels, so that fewer of them are as precise.
    draws = max(_FEWEST_DRAWS, _CHANCE_PIXELS // (size[0] * size[1]))
    generator = derive_generator(0, "chance", size)
    return chance_level(lambda first, second: compare(describe(first), describe(second)), size, draws, generator)
