"""BatchNorms that stand right behind a layer, found by running the network once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

TOLERANCE = 1e-3  # largest change of a logit, relative to the largest logit


def norms_behind(
    module: nn.Module, example: torch.Tensor, norms: Sequence[nn.Module]
) -> list[tuple[nn.Module, nn.Module]]:
    """Layers and norms that run once each, the second on the very tensor that the first returned.

    Whether anybody else reads that tensor, too, is not known: compare answers before and after a fold.

    Args:
        module: network in eval mode.
        example: images (B, 3, H, W), B >= 1.
        norms: modules of the network that take the place of a BatchNorm.
    """
    outputs: list[tuple[nn.Module, torch.Tensor]] = []
    inputs: list[tuple[nn.Module, torch.Tensor]] = []

    def returned(layer: nn.Module, arguments: object, output: torch.Tensor) -> None:
        outputs.append((layer, output))

    def received(norm: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        inputs.append((norm, arguments[0]))

    layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(returned) for layer in layers]
    hooks += [norm.register_forward_pre_hook(received) for norm in norms]
    try:
        module(example)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = []
    for norm in norms:
        sources = [tensor for found, tensor in inputs if found is norm]
        matches = [layer for layer, tensor in outputs if len(sources) == 1 and tensor is sources[0]]
        if len(matches) == 1 and sum(layer is matches[0] for layer, _ in outputs) == 1:
            pairs.append((matches[0], norm))
    return pairs


def same_answer(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether logits differ by no more than what a fold rounds otherwise."""
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp_min(1e-6))
