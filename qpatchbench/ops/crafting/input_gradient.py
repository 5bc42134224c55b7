"""A network whose backward pass ends at its images, as an autograd function."""

from __future__ import annotations

import torch
from torch.autograd.function import FunctionCtx

from qpatchbench.types import Network


class OfImagesOnly(torch.autograd.Function):
    """images, network -> logits; no backward pass through them reaches what else the network depends on."""

    @staticmethod
    def forward(ctx: FunctionCtx, images: torch.Tensor, network: Network) -> torch.Tensor:
        """Logits in memory of their own; the graph is kept where a gradient is needed."""
        if not ctx.needs_input_grad[0]:  # type: ignore[attr-defined]  # set by torch, absent from its stub
            return network(images).clone()
        with torch.enable_grad():
            own = images.detach().requires_grad_()
            logits = network(own)
        ctx.own, ctx.logits = own, logits  # type: ignore[attr-defined]  # a whole graph is no tensor to save
        return logits.detach().clone()

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of the images."""
        (gradient,) = torch.autograd.grad(ctx.logits, ctx.own, gradients[0])  # type: ignore[attr-defined]  # as above
        return gradient, None
