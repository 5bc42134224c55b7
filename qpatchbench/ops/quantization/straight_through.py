"""Straight-through rounding as autograd functions whose backward passes can be differentiated again.

A fixed scale rounds and then clips: the gradient passes where the rounded code is in range, up to half a step beyond
the outermost points. A learned scale clips and then rounds (Esser et al. 2020, equation 1): it passes strictly between
the outermost points, and what lies beyond them pulls at the scale.

`hardtanh_backward` is the vectorised kernel for "the gradient strictly between two limits, else 0".
"""

from __future__ import annotations

import torch
from torch.autograd.function import FunctionCtx

from qpatchbench.ops.quantization import fused


class FixedScale(torch.autograd.Function):
    """values, scale (broadcastable, no gradient), qmin, qmax -> values on the grid."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
        """Quantize; keeps the unclamped codes, or what they are computed from, only where a gradient is needed."""
        ctx.qmin, ctx.qmax = qmin, qmax  # type: ignore[attr-defined]  # torch's own way to keep non-tensors
        if fused.fits(values):
            if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]  # set by torch, absent from its stub
                ctx.save_for_backward(values, scale)
            return fused.on_grid(values, scale, qmin, qmax)
        codes = (values * scale.reciprocal()).round_()
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]  # as above
            ctx.save_for_backward(codes)
        return codes.clamp(qmin, qmax).mul_(scale)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of values; the scale has none."""
        saved = ctx.saved_tensors  # type: ignore[attr-defined]  # as above
        # Codes are integers, so that half a step around the range decides exactly.
        low, high = ctx.qmin - 0.5, ctx.qmax + 0.5  # type: ignore[attr-defined]  # as above
        if len(saved) == 1:
            return _where_between(gradients[0], saved[0], low, high), None, None, None
        values, scale = saved
        if not torch.is_grad_enabled():
            return fused.passed(gradients[0], values, scale, low, high), None, None, None
        codes = (values.detach() * scale.reciprocal()).round_()
        return _where_between(gradients[0], codes, low, high), None, None, None


class LearnedScale(torch.autograd.Function):
    """values, scale (broadcastable), qmin, qmax, gradient factor of the scale -> values on the grid."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, values: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int, factor: float
    ) -> torch.Tensor:
        """Quantize; the backward pass recomputes the codes, so only the inputs are kept."""
        ctx.qmin, ctx.qmax, ctx.factor = qmin, qmax, factor  # type: ignore[attr-defined]  # as above
        ctx.save_for_backward(values, scale)
        if fused.fits(values):
            return fused.on_grid(values, scale, qmin, qmax)
        return (values * scale.reciprocal()).round_().clamp_(qmin, qmax).mul_(scale)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of values and scale."""
        values, scale = ctx.saved_tensors  # type: ignore[attr-defined]  # as above
        if fused.fits(values) and not torch.is_grad_enabled():
            limits = ctx.qmin, ctx.qmax  # type: ignore[attr-defined]  # as above
            if not ctx.needs_input_grad[1]:  # type: ignore[attr-defined]  # as above
                return fused.kept(gradients[0], values, scale, *limits), None, None, None, None
            inside, pull = fused.pulled(gradients[0], values, scale, *limits, ctx.factor)  # type: ignore[attr-defined]  # as above
            return inside, pull.sum_to_size(scale.shape), None, None, None
        steps = values * scale.reciprocal()
        fixed = steps.detach()
        inside = _where_between(gradients[0], fixed, ctx.qmin, ctx.qmax)  # type: ignore[attr-defined]  # as above
        if not ctx.needs_input_grad[1]:  # type: ignore[attr-defined]  # as above
            return inside, None, None, None, None
        clamped = fixed.round().clamp_(ctx.qmin, ctx.qmax)  # type: ignore[attr-defined]  # as above
        # In range: code - step; from the outermost points on, where `inside` is 0: the outermost code.
        slope = (gradients[0] * clamped - inside * steps).sum_to_size(scale.shape)
        return inside, slope * ctx.factor, None, None, None  # type: ignore[attr-defined]  # as above


class Unclipped(torch.autograd.Function):
    """values, low and scale (both broadcastable, no gradient), largest code -> values on the grid low + scale * code.

    The gradient passes everywhere, also where a value was clipped.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, values: torch.Tensor, low: torch.Tensor, scale: torch.Tensor, largest: int
    ) -> torch.Tensor:
        """Quantize; the backward pass needs nothing."""
        return (values - low).mul_(scale.reciprocal()).round_().clamp_(0, largest).mul_(scale).add_(low)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of values; the others have none."""
        return gradients[0], None, None, None


def _where_between(gradient: torch.Tensor, values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    masked: torch.Tensor = torch.ops.aten.hardtanh_backward(gradient, values, low, high)
    return masked
