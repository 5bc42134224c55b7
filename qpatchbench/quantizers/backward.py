"""What attacks may follow instead of a frozen network's own gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from qpatchbench.quantizers.frozen_activation import FrozenActivation
from qpatchbench.types import FLOAT_BITS


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
