"""Gradients that attacks may follow instead of a frozen network's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.types import FLOAT_BITS, Network


@contextmanager
def identity_gradients(network: nn.Module) -> Iterator[int]:
    """Meanwhile the gradient of every activation quantizer is that of the identity; yields how many there are.

    The network answers as it did, bit for bit. The straight-through estimator of most quantizers passes nothing where
    a value was clipped; here everything passes (BPDA; Athalye, Carlini, Wagner 2018, arXiv 1802.00420, section 4.1).
    """

    def pass_on(module: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        inputs = arguments[0]
        # The difference is 0 in value and the identity in gradient.
        return output.detach() + (inputs - inputs.detach())

    quantizers = [part for part in network.modules() if isinstance(part, FrozenActivation) and part.width != FLOAT_BITS]
    hooks = [quantizer.register_forward_hook(pass_on) for quantizer in quantizers]
    try:
        yield len(hooks)
    finally:
        for hook in hooks:
            hook.remove()


def with_scale_gradients(network: nn.Module, answer: Network) -> Network:
    """A function whose gradient also passes through the activation scales that images set at run time.

    It answers as `answer` does, bit for bit. A gradient that holds max|x| constant does not tell an attack that one
    large activation coarsens the grid of its whole image. Where no scale is set at run time, nothing is different.

    Args:
        network: holds the quantizers.
        answer: images (B, 3, H, W) -> logits (B, K); the network itself, or its expectation where it draws at random.
    """
    quantizers = [part for part in network.modules() if isinstance(part, FrozenActivation) and part.scale is None]

    def following(images: torch.Tensor) -> torch.Tensor:
        before = [quantizer.follows_scale for quantizer in quantizers]
        for quantizer in quantizers:
            quantizer.follows_scale = True
        try:
            return answer(images)
        finally:
            for quantizer, followed in zip(quantizers, before, strict=True):
                quantizer.follows_scale = followed

    return following
