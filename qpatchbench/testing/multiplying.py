"""What a network really multiplies: operands of convolutions and matrix products, whatever its layers declare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_CONVOLUTIONS = ("aten.convolution.default", "aten.mkldnn_convolution.default")
_PRODUCTS = {"aten.addmm.default": (1, 2), "aten.mm.default": (0, 1), "aten.linear.default": (0, 1)}


@dataclass
class Multiplied:
    """One multiplication with weights.

    Attributes:
        inputs: (B, ...) activations.
        weights: (outputs, ...), first dimension the output channels.
    """

    inputs: torch.Tensor
    weights: torch.Tensor

    @property
    def weight_levels(self) -> int:
        """Most distinct weights of one output channel."""
        return max(len(torch.unique(channel)) for channel in self.weights)

    @property
    def activation_levels(self) -> int:
        """Distinct inputs; of one image where every image has a scale of its own, which is what gives fewer."""
        return min(
            len(torch.unique(self.inputs)),
            max(len(torch.unique(image)) for image in self.inputs),
        )


class _Looking(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no annotations
    """Collects operands of multiplications by weights, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Multiplied] = []

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 (torch's protocol)
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (torch's protocol)
        name = str(func)
        if name in _CONVOLUTIONS:
            self.found.append(Multiplied(args[0].clone(), args[1].clone()))
        elif name in _PRODUCTS:
            left, right = (args[index] for index in _PRODUCTS[name])
            weights = right if name == "aten.linear.default" else right.t()
            self.found.append(Multiplied(left.clone(), weights.clone()))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def multiplications(network: nn.Module, images: torch.Tensor) -> list[Multiplied]:
    """Every convolution and matrix product that the network runs on the images (N, 3, H, W)."""
    looking = _Looking()
    with looking:
        network(images)
    return looking.found
