"""BatchNorm in training mode whose second derivative costs about as much as its first.

torch composes the second derivative of BatchNorm of some thirty operations on whole feature maps, which is a third of a
training step with a penalty on input gradients. With x^ the normalised input, r the reciprocal deviation, N values per
channel, and P = I - 11'/N - x^x^'/N, which is symmetric, the first derivative is

    g_x = w r P g,    g_w = sum g x^,    g_b = sum g        (Ioffe and Szegedy 2015, arXiv 1502.03167, section 3)

and the gradient of <u, g_x> is, with a = r P u and s = sum g a,

    for g: w a,    for w: s,    for x: -(w r s / N) x^ - (w r g_w / N) a - (r sum(u x^) / N) g_x,

so the kernel of the first derivative gives `a` and every sum but s.
"""  # noqa: D214 (formulas)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.overrides import TorchFunctionMode


class FastSecondDerivative(TorchFunctionMode):
    """Context in which `torch.nn.functional.batch_norm` in training mode uses the formulas above; the same results."""

    def __torch_function__(  # noqa: D105
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever func returns)
        if func is torch.nn.functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    inputs: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    if not training or weight is None or bias is None:
        return torch.nn.functional.batch_norm(inputs, running_mean, running_var, weight, bias, training, momentum, eps)
    result: torch.Tensor = _BatchNorm.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        inputs, weight, bias, running_mean, running_var, momentum, eps
    )
    return result


class _BatchNorm(torch.autograd.Function):
    """Inputs (B, C, ...), weight, bias, running mean and variance, momentum, epsilon -> outputs."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        momentum: float,
        eps: float,
    ) -> torch.Tensor:
        outputs, mean, inverse = torch.native_batch_norm(
            inputs, weight, bias, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(inputs, weight, mean, inverse)
        return outputs

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight, mean, inverse = ctx.saved_tensors  # type: ignore[attr-defined]  # absent from torch's stub
        found = _FirstDerivative.apply(  # type: ignore[no-untyped-call]  # as above
            gradients[0], inputs, weight, mean, inverse
        )
        return *found, None, None, None, None


class _FirstDerivative(torch.autograd.Function):
    """Gradient of the outputs, inputs, weight, and the batch's mean and 1 / deviation -> g_x, g_w, g_b.

    Mean and deviation are functions of the inputs here, and get no gradient of their own.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        gradient: torch.Tensor,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        mean: torch.Tensor,
        inverse: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        of_inputs, of_weight, of_bias = _kernel(gradient, inputs, weight, mean, inverse)
        ctx.save_for_backward(gradient, inputs, weight, mean, inverse, of_inputs, of_weight)
        ctx.set_materialize_grads(False)
        return of_inputs, of_weight, of_bias

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        gradient, inputs, weight, mean, inverse, of_inputs, of_weight = ctx.saved_tensors  # type: ignore[attr-defined]
        shape = (1, -1) + (1,) * (inputs.dim() - 2)
        count = inputs.numel() // inputs.shape[1]

        def wide(channels: torch.Tensor) -> torch.Tensor:
            shaped: torch.Tensor = channels.view(shape)
            return shaped

        def normalised() -> torch.Tensor:
            result: torch.Tensor = (inputs - wide(mean)) * wide(inverse)
            return result

        for_gradient: torch.Tensor | None = None
        for_inputs: torch.Tensor | None = None
        for_weight: torch.Tensor | None = None
        second, second_weight, second_bias = gradients
        if second is not None:
            projected, along, _ = _kernel(second, inputs, torch.ones_like(mean), mean, inverse)
            for_weight = _channel_sums(gradient, projected)
            for_gradient = projected * wide(weight)
            slope = -weight * inverse.square() * for_weight / count
            for_inputs = torch.addcmul(wide(-slope * mean), inputs, wide(slope))
            for_inputs = for_inputs.addcmul(projected, wide(-weight * inverse * of_weight / count))
            for_inputs = for_inputs.addcmul(of_inputs, wide(-inverse * along / count))
        if second_weight is not None:
            own, _, _ = _kernel(gradient, inputs, torch.ones_like(mean), mean, inverse)
            for_gradient = _plus(for_gradient, wide(second_weight) * normalised())
            for_inputs = _plus(for_inputs, wide(second_weight) * own)
        if second_bias is not None:
            for_gradient = _plus(for_gradient, wide(second_bias).expand_as(gradient))
        return (
            None if for_gradient is None else for_gradient.to(gradient.dtype),
            None if for_inputs is None else for_inputs.to(inputs.dtype),
            None if for_weight is None else for_weight.to(weight.dtype),
            None,
            None,
        )


def _kernel(  # a weight of ones where there is none: CUDA has no such kernel without a weight
    gradient: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor, mean: torch.Tensor, inverse: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    found: tuple[torch.Tensor, ...] = torch.ops.aten.native_batch_norm_backward(
        gradient, inputs, weight, None, None, mean, inverse, True, 0.0, [True, True, True]
    )
    return found


def _channel_sums(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Sum of products over all but dimension 1, (C,)."""
    zero = torch.zeros(first.shape[1], dtype=torch.promote_types(first.dtype, torch.float32), device=first.device)
    # The kernel's sum of gradient * (input - mean) / deviation is several times faster than a product and a sum.
    found: torch.Tensor = torch.ops.aten.native_batch_norm_backward(
        first, second, zero + 1, None, None, zero, zero + 1, True, 0.0, [False, True, False]
    )[1]
    return found


def _plus(first: torch.Tensor | None, second: torch.Tensor) -> torch.Tensor:
    return second if first is None else first + second
