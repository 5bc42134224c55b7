"""Grad-CAM at every bit-width: where a network looks for the true class, and whether the bit-widths agree.

Selvaraju et al. 2017, arXiv 1610.02391, computed by the library captum; figure 3 of TriQDef (Guesmi, Ouni, Shafique
2026, ICLR, arXiv 2508.12132) shows it without a measure of agreement. The measures here are the cosine of two maps, and
the intersection over union of their most relevant fifths. Chance is the map of another image, not noise: maps of
different images look alike where objects are centred.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.maps.agreement import (
    Agreement,
    Content,
    against_most_bits,
    agreement,
    blank_maps,
    of_other_images,
)
from qpatchbench.ops.maps.similarity import cosine, intersection_over_union
from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.quantizers.inspection.taps import Taps
from qpatchbench.types import Bits

SMALLEST_SIDE = 4  # of a map that says where something is
RELEVANT = 0.2


def cam_layer(network: nn.Module, example: torch.Tensor) -> str:
    """The module whose output is explained: the last convolution's map of 4 pixels a side or more, where it is ready.

    That is after BatchNorm, nonlinearity and the sum of a residual block: the last module to hand on a map of that
    shape.

    Args:
        network: any mode.
        example: images (B, 3, H, W); the first is run.

    Raises:
        QPatchBenchError: no convolution reads a map of another one, as in a vision transformer, or all maps are
            smaller.
    """
    if not Taps(network).maps(example):
        raise QPatchBenchError(
            f"found no map that Grad-CAM could explain in {type(network).__name__}: expected a convolution that reads "
            "another one's map; a transformer hands on tokens. Set analysis.maps to 0, or leave the model out"
        )
    shapes: list[tuple[nn.Module, torch.Size]] = []

    def note(module: nn.Module, arguments: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[-2:]) >= SMALLEST_SIDE:
            shapes.append((module, output.shape))

    names: dict[nn.Module, str] = {module: name for name, module in network.named_modules() if name}
    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with evaluating(network), torch.no_grad():
            network(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
    convolved = [shape for module, shape in shapes if isinstance(module, nn.Conv2d)]
    if not convolved:
        side = example.shape[-1]
        raise QPatchBenchError(
            f"Grad-CAM needs a convolution whose map has {SMALLEST_SIDE} pixels a side or more, and "
            f"{type(network).__name__} has none for images of {side}x{side}; use larger images"
        )
    return next(names[module] for module, shape in reversed(shapes) if shape == convolved[-1])


def grad_cams(
    network: nn.Module, layer: str, pixels: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> torch.Tensor:
    """Where the network looks for the true class: equation 2 of the paper, each map divided by its largest value.

    Args:
        network: one bit-width.
        layer: name of the module whose output is explained.
        pixels: (N, 3, H, W) float32 in [0, 1].
        labels: (N,) class ids.
        batch_size: changes no figure beyond rounding.

    Returns:
        (N, h, w) float32 in [0, 1], as large as the layer's maps; zeros where nothing speaks for the class.

    Raises:
        QPatchBenchError: the library is missing, or the network has no such layer.
    """
    require_library()
    from captum.attr import LayerGradCam

    modules = dict(network.named_modules())
    if layer not in modules:
        raise QPatchBenchError(f"expected a layer {layer!r} at every bit-width, found a network without it")
    explainer = LayerGradCam(network, modules[layer])
    parts = []
    with evaluating(network), torch.enable_grad():
        for images, sought in zip(torch.split(pixels, batch_size), torch.split(labels, batch_size), strict=True):
            own = images.detach().requires_grad_()
            parts.append(explainer.attribute(own, target=sought, relu_attributions=True).detach().squeeze(1))
    maps = torch.cat(parts)
    largest = maps.flatten(1).amax(dim=1).view(-1, 1, 1)
    return maps / torch.where(largest > 0, largest, 1)


def require_library() -> None:
    """Raise a QPatchBenchError where captum is not installed; imports nothing."""
    if importlib.util.find_spec("captum") is None:
        raise QPatchBenchError("Grad-CAM needs the library captum, which is not installed: pip install captum")


def most_relevant(maps: torch.Tensor) -> torch.Tensor:
    """The fifth of the pixels of each map (N, h, w) with the largest values, fewer where fewer are positive; bool."""
    flat = maps.flatten(1)
    kept = max(1, round(RELEVANT * flat.shape[1]))
    threshold = flat.topk(kept, dim=1).values[:, -1:]
    return ((flat >= threshold) & (flat > 0)).view_as(maps)


def cam_values(first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cosine and overlap of N pairs of maps (N, h, w), (N,) each; 0 where a map is blank."""
    return {"cosine": cosine(first, second), "iou": _overlap(most_relevant(first), most_relevant(second))}


def _overlap(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Intersection over union; 0 where both sets are empty, because two networks that see nothing agree on nothing."""
    return torch.where((first | second).flatten(1).any(dim=1), intersection_over_union(first, second), 0.0)


def cam_agreements(content: Content, layer: str, cams: Mapping[Bits, torch.Tensor]) -> Iterator[Agreement]:
    """Cosine and overlap of every narrower width's maps with the widest one's, beside those of other images."""
    for pair, maps in against_most_bits(cams):
        reference, blank = cams[pair[0]], blank_maps(maps)
        values = cam_values(reference, maps)
        sets = most_relevant(reference), most_relevant(maps)
        overlap = of_other_images(_overlap, *sets)
        yield agreement(
            content, layer, pair, "cosine", values["cosine"], of_other_images(cosine, reference, maps), blank
        )
        yield agreement(content, layer, pair, "iou", values["iou"], overlap, blank)
