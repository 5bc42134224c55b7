"""Codes found again from weights that a grid made, whatever scale and factor made them."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.quantization.fake_quantization import fake_quantize, max_scale
from qpatchbench.quantizers.onnx.weight_codes import weight_codes


def test_an_example_by_hand() -> None:
    # Steps of 0.5 and 0.2, with a factor of 3 on the second; the first channel does not use its outermost codes.
    weight = torch.tensor([[1.0, -0.5, 0.0], [3 * 0.2 * 7, -3 * 0.2, 3 * 0.2 * 2]])
    codes, scales = weight_codes(weight, 4, "layer")
    assert codes.dtype == torch.int8
    torch.testing.assert_close(codes.float() * scales[:, None], weight)
    assert codes[1].tolist() == [7, -1, 2]
    assert codes[0, 0] == -2 * codes[0, 1]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_quantized_weights_round_trip(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(24, 9, 3, 3, generator=generator) * torch.logspace(-4, 3, 24).view(-1, 1, 1, 1)
    largest = 2 ** (bits - 1) - 1
    scale = 0.7 * max_scale(weight, largest, 0)  # clips, so that several weights have the outermost code
    factor = torch.rand(24, 1, 1, 1, generator=generator) + 0.1
    stored = fake_quantize(weight, scale, -largest, largest, 0) * factor
    codes, scales = weight_codes(stored, bits, "layer")
    assert int(codes.abs().max()) <= largest
    torch.testing.assert_close(codes.float() * scales.view(-1, 1, 1, 1), stored, rtol=1e-5, atol=0)


def test_zeros_and_other_grids() -> None:
    codes, scales = weight_codes(torch.zeros(2, 3), 8, "layer")
    assert codes.tolist() == [[0, 0, 0]] * 2
    assert scales.tolist() == [1, 1]
    with pytest.raises(QPatchBenchError, match=r"layer: expected weights on 15 equally spaced points.*in channel 1"):
        weight_codes(torch.tensor([[1.0, 0.5], [1.0, 0.123]]), 4, "layer")
