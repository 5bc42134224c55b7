"""Formulas of pixel attacks by hand and by exhaustion, and the seal around a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qpatchbench.ops.crafting.input_gradient import OfImagesOnly
from qpatchbench.ops.crafting.pixel_attacks import (
    projected,
    random_start,
    signed_step,
    to_8_bit_inside,
    whole_levels,
    with_momentum,
)
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.types import Network


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def sealed(images: torch.Tensor, network: Network) -> torch.Tensor:
    logits: torch.Tensor = OfImagesOnly.apply(images, network)  # type: ignore[no-untyped-call]  # torch's own
    return logits


def test_projection_cuts_at_the_ball_and_at_the_range_of_a_pixel() -> None:
    clean = row(0.5, 0.5, 0.5, 0.02, 0.99)
    moved = row(0.9, 0.1, 0.52, -0.5, 1.5)
    assert torch.allclose(projected(moved, clean, 0.1), row(0.6, 0.4, 0.52, 0.0, 1.0))


def test_a_step_goes_against_the_sign_and_nowhere_without_a_slope() -> None:
    clean = row(0.5, 0.5, 0.5)
    stepped = signed_step(clean, row(1e-9, -7.0, 0.0), clean, step_size=0.03, epsilon=0.1)
    assert torch.allclose(stepped, row(0.47, 0.53, 0.5))
    again = signed_step(stepped, row(1.0, -1.0, 0.0), clean, step_size=0.08, epsilon=0.1)
    assert torch.allclose(again, row(0.4, 0.6, 0.5)), "the second step ends at the border of the ball"


def test_momentum_is_equation_6() -> None:
    """Two images whose gradients differ a thousandfold weigh the same; the decay applies to what was summed."""
    gradients = torch.tensor([[3.0, -1.0], [0.003, -0.001]]).view(2, 1, 1, 2)
    first = with_momentum(torch.zeros_like(gradients), gradients, 0.5)
    assert torch.allclose(first.view(2, 2), torch.tensor([[0.75, -0.25], [0.75, -0.25]]))
    second = with_momentum(first, -gradients, 0.5)
    assert torch.allclose(second.view(2, 2), torch.tensor([[-0.375, 0.125]]).expand(2, 2))
    nothing = torch.zeros(1, 3, 2, 2)
    assert torch.equal(with_momentum(nothing, nothing, 1.0), nothing), "no gradient is no direction, not NaN"


@pytest.mark.parametrize(
    ("epsilon", "levels"),
    [(0, 0), (0.0039, 0), (1 / 255, 1), (8 / 255, 8), (0.03, 7), (0.015, 3), (0.0314, 8), (1.0, 255)],
)
def test_whole_levels(epsilon: float, levels: int) -> None:
    assert whole_levels(epsilon) == levels


def test_every_number_of_levels_survives_its_own_division() -> None:
    assert [whole_levels(levels / 255) for levels in range(256)] == list(range(256))


@pytest.mark.parametrize("epsilon", [1 / 255, 0.015, 0.03, 8 / 255, 0.5])
def test_8_bit_images_inside_are_the_nearest_ones(epsilon: float) -> None:
    """Against a search over all 256 levels, in double precision."""
    pixels = torch.randint(0, 256, (2, 3, 10, 10), generator=draws(1))
    clean = pixels.float() / 255
    images = projected(clean + 2 * epsilon * (2 * torch.rand(clean.shape, generator=draws(2)) - 1), clean, epsilon)
    found = to_8_bit_inside(images, clean, epsilon)
    levels = np.arange(256)
    inside = np.abs(levels - pixels.numpy()[..., None]) <= epsilon * 255 + 1e-6
    distance = np.where(inside, np.abs(levels - 255 * images.double().numpy()[..., None]), np.inf)
    best = distance.min(axis=-1)
    own = np.take_along_axis(distance, (found * 255).round().long().numpy()[..., None], axis=-1)[..., 0]
    assert np.isfinite(own).all(), "outside the ball"
    assert np.allclose(own, best, atol=1e-4)
    assert torch.equal(to_8_bit_inside(found, clean, epsilon), found), "done twice is done once"


def test_random_starts_stay_inside_and_belong_to_their_image() -> None:
    clean = torch.rand(6, 3, 4, 4, generator=draws(3))
    streams = ImageDraws.of(6, draws(4), clean.device)
    start = random_start(clean, streams.chosen(torch.arange(6)), 0.1)
    assert (start - clean).abs().max() <= 0.1 + 1e-6
    assert start.min() >= 0
    assert start.max() <= 1
    alone = random_start(clean[4:5], streams.chosen(torch.tensor([4])), 0.1)
    assert torch.equal(alone, start[4:5])


def test_a_sealed_network_answers_and_differentiates_alike_but_leaves_no_gradient() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.Tanh())
    images = torch.rand(5, 3, 2, 2, generator=draws(5))
    weights = torch.randn(5, 4, generator=draws(6))
    gradients = []
    for seal in (False, True):
        inputs = images.clone().requires_grad_()
        logits = sealed(inputs, network) if seal else network(inputs)
        gradients.append((logits.detach(), *torch.autograd.grad((logits * weights).sum(), inputs)))
    assert all(torch.equal(plain, through) for plain, through in zip(*gradients, strict=True))
    inputs = images.clone().requires_grad_()
    torch.autograd.backward(sealed(inputs, network).sum())
    assert inputs.grad is not None
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_sealed_network_gives_logits_of_their_own() -> None:
    kept = torch.rand(2, 3)
    for inputs in (torch.zeros(2, 3), torch.zeros(2, 3, requires_grad=True)):
        with torch.no_grad():
            sealed(inputs, lambda images: kept + 0 * images).fill_(9)
            sealed(inputs, lambda images: images[:, :2]).fill_(9)
        assert inputs.eq(0).all()
