from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from qpatchbench.ops.quantization.batch_norm_folding import Affine, folded


@pytest.mark.parametrize(("with_bias", "with_gain", "with_shift"), list(itertools.product((False, True), repeat=3)))
def test_the_layer_answers_as_itself_and_the_norm_behind_it(with_bias: bool, with_gain: bool, with_shift: bool) -> None:
    draws = torch.Generator().manual_seed(1)
    inputs = torch.randn(3, 4, 6, 6, generator=draws)
    weight = torch.randn(5, 4, 3, 3, generator=draws)
    bias = torch.randn(5, generator=draws) if with_bias else None
    mean, variance = torch.randn(5, generator=draws), torch.rand(5, generator=draws)
    gain = torch.randn(5, generator=draws) if with_gain else None
    shift = torch.randn(5, generator=draws) if with_shift else None
    expected = functional.batch_norm(functional.conv2d(inputs, weight, bias), mean, variance, gain, shift, eps=1e-3)
    for dtype in (torch.float32, torch.float64):
        scaled, moved = folded(weight, bias, Affine(mean, variance, 1e-3, gain, shift), dtype)
        assert scaled.dtype == moved.dtype == torch.float32
        torch.testing.assert_close(functional.conv2d(inputs, scaled, moved), expected, rtol=1e-4, atol=1e-4)


def test_a_linear_layer_and_a_norm_by_hand() -> None:
    """y = (2 x + 1 - 3) / sqrt(3 + 1) * 4 + 5 = 4 x + 1."""
    norm = Affine(torch.tensor([3.0]), torch.tensor([3.0]), 1.0, torch.tensor([4.0]), torch.tensor([5.0]))
    weight, bias = folded(torch.tensor([[2.0]]), torch.tensor([1.0]), norm)
    assert weight.tolist() == [[4.0]]
    assert bias.tolist() == [1.0]
