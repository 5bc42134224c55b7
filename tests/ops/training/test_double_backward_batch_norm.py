"""The fast second derivative against torch's own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import nn

from qpatchbench.ops.training.double_backward_batch_norm import FastSecondDerivative


def second_order(
    context: AbstractContextManager[object], dtype: torch.dtype, shape: tuple[int, ...], first_of: str
) -> list[torch.Tensor]:
    """Outputs, first derivatives, second ones and running statistics of a BatchNorm between two curved functions."""
    generator = torch.Generator().manual_seed(0)
    norm: nn.Module = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1])
    norm.to(torch.promote_types(dtype, torch.float32))
    parameters = dict(norm.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(torch.randn(shape[1], generator=generator))
        parameters["weight"][0] = 0  # a dead channel divides by nothing
    inputs = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    with context:
        outputs = norm(inputs.sin())
    every = {"inputs": inputs, **parameters}
    chosen = list(every.values()) if first_of == "all" else [every[first_of]]
    first = torch.autograd.grad(outputs.double().tanh().square().sum(), chosen, create_graph=True)
    penalty = torch.stack([(3 * gradient.double()).cos().sum() for gradient in first]).sum()
    second = torch.autograd.grad(penalty, list(every.values()))
    return [outputs.detach(), *(gradient.detach() for gradient in first), *second, *norm.buffers()]


@pytest.mark.parametrize("first_of", ["inputs", "weight", "bias", "all"])
@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (7, 4), (2, 3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_derivative_is_that_of_torch(dtype: torch.dtype, shape: tuple[int, ...], first_of: str) -> None:
    expected = second_order(nullcontext(), dtype, shape, first_of)
    found = second_order(FastSecondDerivative(), dtype, shape, first_of)
    scale = 1e-3 if dtype == torch.float32 else 1e-9
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, rtol=scale, atol=scale * (1 + float(theirs.abs().max())))
    assert torch.equal(found[0], expected[0]), "the forward pass is the same kernel"


@pytest.mark.numerical
def test_sixteen_bit_features_with_single_precision_weights() -> None:
    expected = second_order(nullcontext(), torch.bfloat16, (8, 4, 4, 4), "inputs")
    found = second_order(FastSecondDerivative(), torch.bfloat16, (8, 4, 4, 4), "inputs")
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert float((ours - theirs).double().norm()) <= 0.02 * float(theirs.double().norm()) + 1e-3


def test_it_agrees_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, 3), (3,), (3,))]

    def normalised(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        with FastSecondDerivative():
            return torch.nn.functional.batch_norm(inputs, None, None, weight, bias, training=True)

    arguments = tuple(value.requires_grad_() for value in values)
    assert torch.autograd.gradcheck(normalised, arguments)
    assert torch.autograd.gradgradcheck(normalised, arguments)


def test_other_modes_are_left_alone() -> None:
    inputs = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    norm = nn.BatchNorm2d(3).eval()
    bare = nn.BatchNorm2d(3, affine=False)
    with FastSecondDerivative():
        outputs, plain = norm(inputs), bare(inputs)
    assert torch.equal(outputs, norm(inputs))
    assert "BatchNorm" in str(outputs.grad_fn)
    assert "_BatchNorm" not in str(outputs.grad_fn)
    assert "_BatchNorm" not in str(plain.grad_fn)
    assert "_BatchNorm" not in str(norm.train()(inputs).grad_fn), "the context has ended"
    with FastSecondDerivative():
        assert "_BatchNorm" in str(norm(inputs).grad_fn)


def test_a_third_derivative_is_an_error() -> None:
    norm, inputs = nn.BatchNorm1d(3), torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with FastSecondDerivative():
        outputs = norm(inputs)
    (first,) = torch.autograd.grad(outputs.tanh().square().sum(), inputs, create_graph=True)
    (second,) = torch.autograd.grad(first.tanh().square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(second.square().sum())
