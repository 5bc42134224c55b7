from __future__ import annotations

import math

import pytest
import torch

from qpatchbench.ops.quantization.fake_quantization import (
    code_range,
    fake_quantize,
    fake_quantize_by_image,
    fake_quantize_learned,
    max_scale,
    mse_scale,
)

WIDTHS = range(2, 17)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(values: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int) -> float:
    return float((fake_quantize(values, scale, qmin, qmax) - values).square().mean())


@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_fill_the_width_and_are_narrow_when_signed(bits: int) -> None:
    signed, unsigned = code_range(bits, signed=True), code_range(bits, signed=False)
    assert signed.qmin == -signed.qmax
    assert signed.qmax - signed.qmin + 1 == 2**bits - 1
    assert unsigned == (0, 2**bits - 1)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("signed", [True, False])
def test_agrees_exactly_with_torch_kernels(bits: int, signed: bool) -> None:
    qmin, qmax = code_range(bits, signed)
    for trial in range(20):
        values = randn(5, 3, 17, seed=trial) * 10.0 ** ((trial % 7) - 3)
        scale = values.abs().amax((0, 2)) / qmax * (0.2 + 0.07 * trial)
        ours = fake_quantize(values, scale[0], qmin, qmax)
        theirs = torch.fake_quantize_per_tensor_affine(values, scale[0], torch.zeros((), dtype=torch.int32), qmin, qmax)
        assert torch.equal(ours, theirs)
        ours = fake_quantize(values, scale, qmin, qmax, channel_axis=1)
        zero = torch.zeros(3, dtype=torch.int32)
        assert torch.equal(ours, torch.fake_quantize_per_channel_affine(values, scale, zero, 1, qmin, qmax))
        assert torch.equal(ours, fake_quantize_learned(values, scale, qmin, qmax, channel_axis=1))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradient_agrees_exactly_with_torch_kernels_on_boundaries_too(bits: int) -> None:
    qmin, qmax = code_range(bits, signed=True)
    # Every multiple of half a step around the range: ties, ends and outside.
    values = (torch.arange(4 * qmin - 4, 4 * qmax + 5) * 0.25 * 0.5).requires_grad_()
    weights = randn(len(values), seed=1)
    zero = torch.zeros((), dtype=torch.int32)
    theirs = torch.fake_quantize_per_tensor_affine(values, torch.tensor(0.5), zero, qmin, qmax)
    ours = fake_quantize(values, torch.tensor(0.5), qmin, qmax)
    expected = torch.autograd.grad(theirs, values, weights)[0]
    assert torch.equal(torch.autograd.grad(ours, values, weights)[0], expected)
    assert 0 < int((expected == 0).sum()) < len(values)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_agrees_exactly_with_brevitas(bits: int) -> None:
    from brevitas.core.bit_width import BitWidthConst
    from brevitas.core.function_wrapper import Identity, RoundSte, TensorClampSte
    from brevitas.core.quant import IntQuant

    values = randn(64, 9, seed=bits)
    scale = torch.tensor(0.125)  # a power of two: brevitas divides, we multiply by the reciprocal
    for signed in (True, False):
        reference = IntQuant(
            narrow_range=signed,
            signed=signed,
            input_view_impl=Identity(),
            float_to_int_impl=RoundSte(),
            tensor_clamp_impl=TensorClampSte(),
        )
        theirs = reference(scale, torch.tensor(0.0), BitWidthConst(bits)(), values)
        assert torch.equal(fake_quantize(values, scale, *code_range(bits, signed)), theirs)


@pytest.mark.parametrize("bits", WIDTHS)
def test_algebra_of_the_grid(bits: int) -> None:
    qmin, qmax = code_range(bits, signed=True)
    values = randn(4, 500, seed=bits)
    scale = max_scale(values, qmax, channel_axis=0)
    quantized = fake_quantize(values, scale, qmin, qmax, channel_axis=0)
    assert max(len(row.unique()) for row in quantized) <= 2**bits - 1
    assert torch.equal(fake_quantize(quantized, scale, qmin, qmax, channel_axis=0), quantized)
    assert bool(((quantized - values).abs() <= scale[:, None] / 2 * (1 + 1e-3)).all())
    assert torch.equal(fake_quantize(-values, scale, qmin, qmax, channel_axis=0), -quantized)
    assert torch.equal(fake_quantize(torch.zeros(3), scale[0], qmin, qmax), torch.zeros(3))
    assert torch.allclose(quantized.abs().amax(1), values.abs().amax(1))


def test_ties_round_to_even() -> None:
    values = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 6.5, 7.5])
    assert fake_quantize(values, torch.tensor(1.0), -7, 7).tolist() == [0, 2, 2, 0, -2, 6, 7]


def test_bfloat16_is_computed_in_float32() -> None:
    values = randn(100).bfloat16()
    scale = torch.tensor(0.0123)
    expected = fake_quantize(values.float(), scale, -127, 127).bfloat16()
    result = fake_quantize(values, scale, -127, 127)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, expected)


def test_all_zero_tensors_have_a_positive_scale_and_stay_zero() -> None:
    zeros = torch.zeros(2, 8)
    for scale in (max_scale(zeros, 7, 0), mse_scale(zeros, -7, 7, 0)):
        assert scale.shape == (2,)
        assert bool((scale > 0).all())
        assert torch.equal(fake_quantize(zeros, scale, -7, 7, channel_axis=0), zeros)


def test_scales_by_hand() -> None:
    values = torch.tensor([[1.0, -3.0], [0.5, 0.25]])
    assert max_scale(values, 3).item() == 1.0
    assert max_scale(values, 3, channel_axis=0).tolist() == [1.0, pytest.approx(0.5 / 3)]
    assert max_scale(values, 3, channel_axis=1).tolist() == [pytest.approx(1 / 3), 1.0]
    # Ternary codes of (1, 3, 3) that minimise the error: (0, 1, 1) at 3, not the mean.
    assert mse_scale(torch.tensor([1.0, 3.0, -3.0]), -1, 1).item() == pytest.approx(3.0)


@pytest.mark.numerical
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("distribution", ["gaussian", "laplace", "relu", "outlier"])
def test_mse_scale_is_as_good_as_a_dense_grid(bits: int, distribution: str) -> None:
    values = randn(3000, seed=bits)
    if distribution == "laplace":
        values = values.sign() * values.abs() ** 2
    elif distribution == "relu":
        values = values.relu()
    elif distribution == "outlier":
        values[0] = 12.0
    qmin, qmax = code_range(bits, signed=distribution != "relu")
    largest = max_scale(values, qmax)
    dense = min(error(values, largest * step / 1500, qmin, qmax) for step in range(15, 1576))
    assert error(values, mse_scale(values, qmin, qmax), qmin, qmax) <= dense * 1.02


def test_mse_scale_per_channel_is_the_scale_of_each_channel() -> None:
    values = randn(4, 200) * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None]
    each = torch.stack([mse_scale(row, -3, 3) for row in values])
    assert torch.allclose(mse_scale(values, -3, 3, channel_axis=0), each)
    assert torch.allclose(mse_scale(values.T, -3, 3, channel_axis=1), each)


@pytest.mark.numerical
def test_error_does_not_increase_with_bits() -> None:
    values = randn(2000)
    errors = []
    for bits in WIDTHS:
        qmin, qmax = code_range(bits, signed=True)
        errors.append(error(values, mse_scale(values, qmin, qmax), qmin, qmax))
    assert errors == sorted(errors, reverse=True)
    # Each bit of a fine uniform grid is worth 6.02 dB less the growth of the clipping range.
    assert 3.0 < errors[6] / errors[7] < 4.1


@pytest.mark.parametrize("channel_axis", [None, 0, 1])
def test_learned_scale_gradient_is_the_closed_form(channel_axis: int | None) -> None:
    qmin, qmax = -3, 3
    values = randn(6, 5, seed=3) * 2
    shape = () if channel_axis is None else (values.shape[channel_axis],)
    scale = (0.3 + 0.2 * torch.rand(shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    upstream = randn(6, 5, seed=4)
    output = fake_quantize_learned(values.requires_grad_(), scale, qmin, qmax, channel_axis)
    grad_values, grad_scale = torch.autograd.grad(output, [values, scale], upstream)

    expected_scale = torch.zeros(shape)
    for i in range(6):
        for j in range(5):
            at = () if channel_axis is None else ((i, j)[channel_axis],)
            step = (values[i, j] / scale[at]).item()
            code = round(step)
            inside = qmin < step < qmax
            slope = code - step if inside else float(min(max(code, qmin), qmax))
            expected_scale[at] += upstream[i, j].item() * slope
            assert grad_values[i, j].item() == (upstream[i, j].item() if inside else 0.0)
    shared = values.numel() // max(1, scale.numel())
    assert torch.allclose(grad_scale, expected_scale / math.sqrt(shared * qmax), atol=1e-5)
    assert bool((values.abs() / 0.4 > 3.5).any())  # both branches were met


@pytest.mark.parametrize(("qmin", "qmax"), [(-1, 1), (0, 3), (-7, 7), (0, 255)])
def test_learned_scale_agrees_with_autograd_of_clip_then_round(qmin: int, qmax: int) -> None:
    """Equation 1 of Esser et al. written out: only the rounding is straight-through, the rest is torch's own."""
    values = (randn(400, seed=qmax) * qmax).requires_grad_()
    scale = torch.tensor(0.7, requires_grad=True)
    upstream = randn(400, seed=1)
    clipped = (values / scale).clamp(qmin, qmax)
    expected = (clipped + (clipped.round() - clipped).detach()) * scale
    found = fake_quantize_learned(values, scale, qmin, qmax, elements=1)
    assert torch.allclose(found, expected, rtol=1e-6)
    theirs = torch.autograd.grad(expected, [values, scale], upstream)
    ours = torch.autograd.grad(found, [values, scale], upstream)
    assert torch.allclose(ours[0], theirs[0], rtol=1e-6)
    assert torch.allclose(ours[1] * math.sqrt(qmax), theirs[1], rtol=1e-4, atol=1e-4 * qmax)
    beyond = (values / scale > qmax) | (values / scale < qmin)
    assert bool(beyond.any())
    assert not bool(ours[0][beyond].any())


def test_learned_scale_gradient_on_the_outermost_points_and_the_ties_beside_them() -> None:
    """At the outermost points the gradient ends, as equation 3 of Esser et al. has it."""
    values = torch.tensor([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]).requires_grad_()
    scale = torch.tensor(0.5, requires_grad=True)
    passed = torch.autograd.grad(fake_quantize_learned(values, scale, -3, 3).sum(), values)[0]
    assert passed.tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]
    slope = [float(torch.autograd.grad(fake_quantize_learned(v, scale, -3, 3, elements=1), scale)[0]) for v in values]
    assert slope == pytest.approx([part / math.sqrt(3) for part in (-3, -3, 0, 0, 0, 0, 0, 3, 3)])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_scales_of_images_have_the_gradient_that_euler_demands(bits: int, signed: bool) -> None:
    """Q(c v) = c Q(v) per image, hence <grad f, v> = f, to which a gradient that holds the scale constant is blind."""
    qmin, qmax = code_range(bits, signed)
    values = randn(5, 3, 17, seed=bits).double()
    values = (values if signed else values.relu()).requires_grad_()
    upstream = randn(5, 3, 17, seed=1).double()
    constant = fake_quantize(values, max_scale(values, qmax, 0), qmin, qmax, 0)
    followed = fake_quantize_by_image(values, qmin, qmax)
    assert torch.equal(followed, constant)
    exact = (followed.detach() * upstream).flatten(1).sum(1)
    gaps = []
    for output in (followed, constant):
        gradient = torch.autograd.grad(output, values, upstream)[0]
        gaps.append(((gradient * values.detach()).flatten(1).sum(1) - exact).abs().max())
    assert float(gaps[0]) < 1e-9
    assert float(gaps[1]) > 1e-3
    assert torch.equal(fake_quantize_by_image(torch.zeros(2, 3), qmin, qmax), torch.zeros(2, 3))


def test_elements_sets_the_gradient_factor() -> None:
    values, scale = randn(8, 10), torch.tensor(0.5, requires_grad=True)
    grads = [
        torch.autograd.grad(fake_quantize_learned(values, scale, -7, 7, elements=n).square().sum(), scale)[0]
        for n in (10, 40)
    ]
    assert torch.allclose(grads[0], grads[1] * 2)


def test_second_derivatives_follow_the_straight_through_rule() -> None:
    # g = grad of sum(Q(v)^3) = 3 Q(v)^2 in range; d(sum g^2)/dv = 2 g * 6 Q(v), again through Q with slope 1.
    values = (randn(50) * 2).requires_grad_()
    scale = torch.tensor(0.25)
    quantized = fake_quantize(values, scale, -7, 7)
    gradient = torch.autograd.grad(quantized.pow(3).sum(), values, create_graph=True)[0]
    second = torch.autograd.grad(gradient.square().sum(), values)[0]
    inside = (values / scale).round().abs() <= 7
    assert torch.allclose(second, (36 * quantized**3 * inside).detach(), rtol=1e-5)


def test_learned_scale_backward_is_differentiated_correctly() -> None:
    """The backward pass as a function of its inputs, codes held, against finite differences in float64."""
    values = (torch.tensor([0.31, -0.62, 0.13, 3.0, -4.0], dtype=torch.float64)).requires_grad_()
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, -0.5, 0.3, 0.7], dtype=torch.float64, requires_grad=True)

    def backward(values: torch.Tensor, scale: torch.Tensor, upstream: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = fake_quantize_learned(values, scale, -3, 3)
        return torch.autograd.grad(output, [values, scale], upstream, create_graph=True)

    # No value is near a rounding boundary, so the codes stay constant under the perturbations.
    assert torch.autograd.gradcheck(backward, (values, scale, upstream), eps=1e-6)


@pytest.mark.numerical
def test_learned_scale_reaches_the_least_squares_scale() -> None:
    values = randn(4000)
    scale = max_scale(values, 3).requires_grad_()
    optimizer = torch.optim.SGD([scale], lr=0.2)
    for _ in range(400):
        optimizer.zero_grad()
        distance = (fake_quantize_learned(values, scale, -3, 3) - values).square().mean()
        torch.autograd.backward(distance * 100)
        optimizer.step()
    best = error(values, mse_scale(values, -3, 3), -3, 3)
    assert error(values, scale.detach(), -3, 3) <= best * 1.01
