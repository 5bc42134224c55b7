"""The gradient of the cross-entropy, against autograd in double precision and where single precision has nothing."""

from __future__ import annotations

import torch

from qpatchbench.ops.loss_gradient import LossGradient, loss_gradient


def of_linear(weight: torch.Tensor, pixels: torch.Tensor, labels: torch.Tensor) -> LossGradient:
    images = pixels.clone().requires_grad_()
    return loss_gradient(images.flatten(1) @ weight, images, labels)


def drawn(scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand(5, 3, 4, 4, generator=generator)
    return scale * torch.randn(48, 6, generator=generator), pixels, torch.tensor([0, 1, 2, 3, 5])


def test_it_is_that_of_the_cross_entropy() -> None:
    weight, pixels, labels = drawn(0.3)
    images = pixels.double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(images.flatten(1) @ weight.double(), labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, images)
    found = of_linear(weight, pixels, labels)
    torch.testing.assert_close(found.gradient.double(), expected, rtol=1e-4, atol=1e-7)
    assert not found.gradient.requires_grad


def test_each_direction_is_its_gradient_over_the_largest_value() -> None:
    found = of_linear(*drawn(0.3))
    largest = found.gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(found.direction, found.gradient / largest)
    assert found.direction.abs().amax(dim=(1, 2, 3)).tolist() == [1.0] * 5


def test_a_sure_answer_has_a_direction_though_no_gradient() -> None:
    weight, pixels, _ = drawn(1e5)
    labels = (pixels.flatten(1) @ weight).argmax(dim=1)
    found = of_linear(weight, pixels, labels)
    assert bool((found.gradient == 0).all()), "its probability is 1"
    assert found.direction.abs().amax(dim=(1, 2, 3)).tolist() == [1.0] * 5


def test_no_slope_is_no_direction() -> None:
    found = of_linear(torch.zeros(48, 6), *drawn(1.0)[1:])
    assert bool((found.direction == 0).all())
    assert bool((found.gradient == 0).all())
