"""Feature maps of the first convolutions, as the layer behind each computes with them.

Figure 3 of QADT-R (Guesmi, Ouni, Shafique 2025, arXiv 2503.07058): clean and patched maps of the first three
convolutions at every bit-width. The paper does not say how channels become one picture; here it is their mean.
"""

from __future__ import annotations

import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.quantizers.inspection.taps import Taps

FIRST = 3


def first_convolutions(network: torch.nn.Module, example: torch.Tensor) -> tuple[str, ...]:
    """Names of the first convolutions whose output another one reads as a map, at most three.

    Of those whose outputs are read as one, added or gated by another, the first alone.

    Args:
        network: any mode.
        example: images (B, 3, H, W); the first is run.

    Raises:
        QPatchBenchError: there is none, as in a vision transformer.
    """
    taps = Taps(network)
    with evaluating(network), torch.no_grad():
        features = taps.observed(network, example[:1], taps.maps(example)).features
    read: list[torch.Tensor] = []
    layers = []
    for layer, found in features.items():
        if not any(found is other for other in read):
            read.append(found)
            layers.append(layer)
    if not layers:
        raise QPatchBenchError(
            f"found no feature maps in {type(network).__name__}: expected a convolution whose output another one reads "
            "as a map; a transformer hands on tokens. Set analysis.maps to 0, or leave the model out"
        )
    return tuple(layers[:FIRST])


def channel_means(network: torch.nn.Module, layers: tuple[str, ...], pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Layer -> mean over the channels of what it hands on, (N, h, w) float32.

    That is after BatchNorm, nonlinearity and the next layer's activation quantizer.

    Args:
        network: one bit-width.
        layers: names of convolutions.
        pixels: (N, 3, H, W) float32 in [0, 1].

    Raises:
        QPatchBenchError: the network has no such layer.
    """
    taps = Taps(network)
    with evaluating(network), torch.no_grad():
        features = taps.observed(network, pixels, layers).features
    return {layer: features[layer].float().mean(dim=1) for layer in layers}
