"""Equations 4 and 5 of QADT-R: the parallel part, the noise, what epsilon does, and zeros."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch

from qpatchbench.ops.training.gradient_inconsistency import Inconsistency, inconsistent

PAPER = Inconsistency(strength=0.1, parallel=1.0, noise=1.0, deviation=0.05, epsilon=1e-5)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    shapes = ((6, 3, 3, 3), (6,), (), (4, 96))
    return [torch.randn(shape, generator=draws(index), dtype=dtype) for index, shape in enumerate(shapes)]


def changed(**fields: Any) -> list[torch.Tensor]:  # noqa: ANN401
    return inconsistent(tensors(), PAPER._replace(**fields), draws())


def test_without_strength_nothing_is_touched() -> None:
    gradients = tensors()
    result = inconsistent(gradients, PAPER._replace(strength=0.0), draws())
    assert all(own is other for own, other in zip(gradients, result, strict=True))


def test_the_inputs_are_not_changed() -> None:
    gradients = tensors()
    inconsistent(gradients, PAPER, draws())
    assert all(torch.equal(own, fresh) for own, fresh in zip(gradients, tensors(), strict=True))


@pytest.mark.parametrize("strength", [0.1, 3.0])
@pytest.mark.parametrize("parallel", [1.0, 0.5])
def test_without_noise_the_gradient_only_grows(strength: float, parallel: float) -> None:
    for before, after in zip(tensors(), changed(strength=strength, parallel=parallel, noise=0.0), strict=True):
        norm = before.norm()
        assert float(torch.dot(before.flatten(), after.flatten()) / (norm * after.norm())) == pytest.approx(
            1, abs=1e-12
        )
        share = float(norm / (norm + PAPER.epsilon))
        assert float(after.norm()) == pytest.approx(float(norm) + strength * parallel * share, rel=1e-9)


def test_the_noise_has_the_deviation_of_equation_5() -> None:
    """alpha * gamma * sigma per element, whatever the gradient; measured over resamples, per element and over all."""
    gradient, settings = torch.tensor([3.0, -1e-6, 0.0, 40.0]), PAPER._replace(parallel=0.0, noise=2.0)
    generator = draws()
    noise = torch.stack([inconsistent([gradient], settings, generator)[0] - gradient for _ in range(8000)])
    expected = 0.1 * 2.0 * 0.05
    assert float(noise.std()) == pytest.approx(expected, rel=0.02)
    assert torch.allclose(noise.std(dim=0), torch.full((4,), expected), rtol=0.03)
    assert float(noise.mean().abs()) < 4 * expected / math.sqrt(noise.numel())
    correlations = torch.corrcoef(noise.T) - torch.eye(4)
    assert float(correlations.abs().max()) < 0.06, "elements share their noise"


def test_relative_noise_has_a_fixed_ratio_to_the_gradient() -> None:
    settings = PAPER._replace(parallel=0.0, noise_scaling="relative", strength=1.0)
    for size in (1e-4, 1.0, 1e4):
        gradient = size * torch.randn(20000, generator=draws(1), dtype=torch.float64)
        noise = inconsistent([gradient], settings, draws())[0] - gradient
        assert float(noise.norm() / gradient.norm()) == pytest.approx(0.05, rel=0.02)


def test_literal_noise_drowns_small_gradients() -> None:
    """What the module says: the noise of 100,000 elements has norm 1.6, however small the gradient."""
    noise = inconsistent([torch.zeros(100_000)], PAPER, draws())[0]
    assert float(noise.norm()) == pytest.approx(0.1 * 0.05 * math.sqrt(100_000), rel=0.02)


def test_epsilon_in_the_sum_is_a_constant_on_every_element() -> None:
    literal = changed(epsilon_at="sum", epsilon=0.5, noise=0.0)
    for before, after in zip(tensors(), literal, strict=True):
        constant = after - before - 0.1 * before / before.norm()
        assert torch.allclose(constant, torch.full_like(before, 0.1 * 0.5), atol=1e-12)


def test_one_norm_for_the_network() -> None:
    whole = torch.cat([gradient.flatten() for gradient in tensors()]).norm()
    for before, after in zip(tensors(), changed(norm="network", noise=0.0, epsilon=0.0), strict=True):
        assert torch.allclose(after, before * (1 + 0.1 / whole), rtol=1e-12)


CHOICES = {
    "epsilon_at": ("denominator", "sum"),
    "norm": ("tensor", "network"),
    "noise_scaling": ("literal", "relative"),
}


@pytest.mark.parametrize("chosen", list(product(*CHOICES.values())), ids="-".join)
@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15])
def test_zero_and_extreme_gradients_stay_finite(chosen: tuple[str, ...], epsilon: float, size: float) -> None:
    fields: dict[str, Any] = dict(zip(CHOICES, chosen, strict=True))
    gradients = [torch.full(shape, size) for shape in ((3, 3), (), (0,))]
    results = inconsistent(gradients, PAPER._replace(epsilon=epsilon, **fields), draws())
    assert all(bool(torch.isfinite(result).all()) for result in results)


def test_a_zero_gradient_gets_noise_and_nothing_else() -> None:
    assert torch.equal(inconsistent([torch.zeros(5)], PAPER._replace(noise=0.0), draws())[0], torch.zeros(5))


def test_no_gradients_are_no_error() -> None:
    assert inconsistent([], PAPER, draws()) == []


def test_noise_is_a_function_of_the_generator() -> None:
    first, again, other = (inconsistent(tensors(), PAPER, draws(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(own, same) for own, same in zip(first, again, strict=True))
    assert all(not torch.equal(own, different) for own, different in zip(first, other, strict=True))
    assert all(own.dtype == before.dtype for own, before in zip(first, tensors(), strict=True))
