"""A-QAPA: the image quantizer, equation 1, and a texture that climbs the loss."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.nn import functional

from qpatchbench.errors import TrainingError
from qpatchbench.ops.crafting.quantized_patches import (
    Ascent,
    ascended_texture,
    paste_quantized,
    quantize_pixels,
    random_places,
)
from qpatchbench.ops.patches.pasting import paste
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.testing.fixtures.oracles import linear_network
from qpatchbench.types import FLOAT, Bits, Network, Placement

SIDE, SIZE, COUNT, CLASSES = 8, 3, 24, 4
WIDTHS = tuple(map(Bits.parse, (32, 8, 5, 4, 2)))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images() -> torch.Tensor:
    return torch.rand(COUNT, 3, SIDE, SIDE, generator=draws(1))


def labels() -> torch.Tensor:
    return torch.arange(COUNT) % CLASSES


def places() -> Placement:
    return sample_placement(COUNT, (SIDE, SIDE), (SIZE, SIZE), draws(2))


def inside() -> torch.Tensor:
    """(B, 1, H, W) bool: the pixels under the patches."""
    white = paste(
        torch.zeros(COUNT, 1, SIDE, SIDE), torch.ones(1, 1, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE), places()
    )
    return white > 0


@pytest.mark.parametrize("width", range(2, 17))
def test_pixels_take_few_levels_of_the_unit_interval(width: int) -> None:
    values = torch.rand(50_000, generator=draws())
    values[:2] = torch.tensor([0.0, 1.0])
    result = quantize_pixels(values, Bits.parse(width))
    steps = 2**width - 1
    assert len(torch.unique(result)) <= 2**width
    if width <= 8:
        assert len(torch.unique(result)) == 2**width
    assert float(result.min()) == 0.0
    assert float(result.max()) == 1.0
    assert float((result - values).abs().max()) <= 0.5 / steps + 1e-6
    assert torch.equal(quantize_pixels(result, Bits.parse(width)), result), "a level is moved"
    expected = (values.double() * steps).round() / steps
    away_from_ties = ((values.double() * steps) % 1 - 0.5).abs() > 1e-2  # float32 cannot tell which is nearer
    assert torch.allclose(result.double()[away_from_ties], expected[away_from_ties], atol=1e-6)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_gradients_pass_straight_through(width: int) -> None:
    values = torch.rand(200, generator=draws()).requires_grad_()
    weights = torch.randn(200, generator=draws(3))
    (gradient,) = torch.autograd.grad((weights * quantize_pixels(values, Bits.parse(width))).sum(), values)
    assert torch.equal(gradient, weights)


def test_float_pixels_are_the_same_object() -> None:
    values = torch.rand(5)
    assert quantize_pixels(values, FLOAT) is values
    assert quantize_pixels(values, Bits.parse("w4a32")) is values, "an image is an activation"
    assert torch.equal(quantize_pixels(values, Bits.parse("w32a4")), quantize_pixels(values, Bits.parse(4)))


@pytest.mark.parametrize("bits", WIDTHS, ids=str)
def test_only_the_patch_is_quantized(bits: Bits) -> None:
    texture = torch.rand(1, 3, SIZE, SIZE, generator=draws(4))
    result = paste_quantized(images(), texture, places(), bits, "patch")
    under = inside().expand_as(result)
    assert torch.equal(result[~under], images()[~under])
    levels = quantize_pixels(texture, bits)
    assert torch.equal(result[under].sort().values, levels.expand(COUNT, -1, -1, -1).flatten().sort().values)
    assert not torch.equal(result, images())


@pytest.mark.parametrize("bits", WIDTHS, ids=str)
def test_equation_1_as_printed_quantizes_both(bits: Bits) -> None:
    texture = torch.rand(1, 3, SIZE, SIZE, generator=draws(4))
    mask = inside().float()
    canvas = paste(torch.zeros_like(images()), texture, torch.ones_like(texture[:, :1]), places())
    by_hand = quantize_pixels(images(), bits) * (1 - mask) + quantize_pixels(canvas, bits) * mask
    assert torch.equal(paste_quantized(images(), texture, places(), bits, "image"), by_hand)


def test_nothing_is_quantized_unless_asked() -> None:
    texture = torch.rand(1, 3, SIZE, SIZE, generator=draws(4))
    plain = paste(images(), texture, torch.ones_like(texture[:, :1]), places())
    assert torch.equal(paste_quantized(images(), texture, places(), Bits.parse(2), "nothing"), plain)


def test_places_are_uniform_and_inside() -> None:
    many = random_places(torch.zeros(9000, 3, SIDE, SIDE), SIZE, draws())
    counts = Counter(zip(many.rows.tolist(), many.columns.tolist(), strict=True))
    assert set(counts) == {(row, column) for row in range(6) for column in range(6)}
    assert max(counts.values()) < 1.4 * min(counts.values())
    assert not many.angles.any()
    assert many.scales.eq(1).all()


def test_a_patch_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(TrainingError, match="no larger than the training images of 8 x 8 pixels, found 9 x 9"):
        random_places(images(), 9, draws())
    assert random_places(images(), 8, draws()).rows.eq(0).all()


class Recorder:
    """A linear network at every width, which notes what it was asked; lower widths see coarser weights."""

    def __init__(self) -> None:
        self.weight = 0.3 * torch.randn(CLASSES, 3 * SIDE * SIDE, generator=draws(5))
        self.asked: list[Bits] = []
        self.shown: list[torch.Tensor] = []

    def at(self, bits: Bits) -> Network:
        """The network at `bits`."""
        self.asked.append(bits)
        step = 2.0 ** (1 - min(bits.weight, 12))
        network = linear_network((self.weight / step).round() * step)

        def shown(batch: torch.Tensor) -> torch.Tensor:
            self.shown.append(batch.detach())
            logits: torch.Tensor = network(batch)
            return logits

        return shown


def ascent(**fields: Any) -> Ascent:  # noqa: ANN401
    return Ascent(**{"side": SIZE, "steps": 10, "step_size": 0.05, "bits": WIDTHS, "part": "patch", **fields})


def textured_loss(network: Recorder, texture: torch.Tensor, bits: Bits) -> float:
    """Cross-entropy over many places."""
    losses = [
        functional.cross_entropy(
            network.at(bits)(
                paste_quantized(images(), texture, random_places(images(), SIZE, draws(seed)), bits, "patch")
            ),
            labels(),
        )
        for seed in range(100, 110)
    ]
    return float(torch.stack(losses).mean().detach())


@pytest.mark.numerical
def test_the_texture_raises_the_loss_at_every_width() -> None:
    network = Recorder()
    start, end = (ascended_texture(network.at, images(), labels(), ascent(steps=steps), draws()) for steps in (0, 20))
    assert torch.equal(start, torch.rand(1, 3, SIZE, SIZE, generator=draws()))
    for bits in WIDTHS:
        assert textured_loss(network, end, bits) > textured_loss(network, start, bits) + 0.02, f"at {bits} bits"


def test_one_step_by_hand() -> None:
    """Float network, patch that covers the image: no place and no width is left to chance."""
    network, whole = Recorder(), ascent(side=SIDE, steps=1, bits=(FLOAT,))
    start = torch.rand(1, 3, SIDE, SIDE, generator=draws())
    probabilities = (start.flatten(1) @ network.weight.T).softmax(dim=1)
    slope = (
        (probabilities - functional.one_hot(labels(), CLASSES)).mean(dim=0) @ (network.weight * 2**11).round() / 2**11
    )
    expected = (start + 0.05 * slope.view(1, 3, SIDE, SIDE).sign()).clamp(0, 1)
    assert torch.allclose(ascended_texture(network.at, images(), labels(), whole, draws()), expected, atol=1e-6)


def test_textures_stay_in_range_and_have_no_graph() -> None:
    network = Recorder()
    texture = ascended_texture(network.at, images(), labels(), ascent(steps=40, step_size=0.3), draws())
    assert texture.shape == (1, 3, SIZE, SIZE)
    assert float(texture.min()) >= 0
    assert float(texture.max()) <= 1
    assert not texture.requires_grad


def test_every_step_draws_a_width_and_places() -> None:
    network = Recorder()
    ascended_texture(network.at, images(), labels(), ascent(steps=400), draws())
    counts = Counter(network.asked)
    assert set(counts) == set(WIDTHS)
    assert sum((count - 80) ** 2 / 80 for count in counts.values()) < 13.28, "chi-squared of 4 degrees, p = 0.01"
    for before, after in zip(network.shown[:5], network.shown[1:6], strict=True):
        moved = (before != images()).any(dim=1) != (after != images()).any(dim=1)
        assert moved.flatten(1).any(dim=1).float().mean() > 0.5


def test_what_is_shown_is_quantized_at_the_width_of_the_step() -> None:
    network = Recorder()
    ascended_texture(network.at, images(), labels(), ascent(part="image"), draws())
    assert {bits.is_float for bits in network.asked} == {False, True}
    for bits, batch in zip(network.asked, network.shown, strict=True):
        if not bits.is_float:
            assert torch.equal(quantize_pixels(batch, bits), batch)
            assert len(torch.unique(batch)) <= 2**bits.activation


@pytest.mark.numerical
def test_the_direction_is_followed() -> None:
    """The opposite one lowers the loss; it is told the width of each step."""
    network, told = Recorder(), []

    def opposite(gradient: torch.Tensor, bits: Bits) -> torch.Tensor:
        told.append(bits)
        return -gradient

    arguments = (network.at, images(), labels(), ascent(steps=20), draws())
    texture = ascended_texture(*arguments, opposite)
    assert told == network.asked
    for bits in WIDTHS:
        noise = torch.rand(1, 3, SIZE, SIZE, generator=draws())
        assert textured_loss(network, texture, bits) < textured_loss(network, noise, bits)


def test_nothing_else_gets_a_gradient() -> None:
    network = linear_network(Recorder().weight).requires_grad_()
    pictures = images()
    ascended_texture(lambda bits: network, pictures, labels(), ascent(), draws())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(pictures, images())


def test_draws_are_those_of_the_generator() -> None:
    network = Recorder()
    first, again, other = (
        ascended_texture(network.at, images(), labels(), ascent(), draws(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
