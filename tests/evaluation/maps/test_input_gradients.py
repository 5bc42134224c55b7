"""Input gradients of bit-widths: closed forms, what PGD keeps to, and rows of agreement."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.maps.input_gradients import gradient_agreements, input_gradients, pgd_images
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.types import FLOAT, Bits, ImageSet

EIGHT, TWO = Bits(8, 8), Bits(2, 2)


class Linear(nn.Module):
    """logits = W images."""

    def __init__(self, seed: int, gain: float = 0.5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(gain * torch.randn(4, 3 * 6 * 6, generator=generator), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight.T


def image_set(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 4, tuple(map(str, range(count))))


def test_the_gradient_of_a_linear_network() -> None:
    network, images = Linear(0, gain=0.05), image_set(7)
    pixels = to_float(images.pixels)
    error = network(pixels).softmax(dim=1) - nn.functional.one_hot(images.labels, 4)
    found = input_gradients(network, pixels, images.labels, batch_size=3)
    torch.testing.assert_close(found.gradient, (error @ network.weight).view_as(pixels), rtol=1e-4, atol=1e-6)


@pytest.mark.numerical
def test_pgd_stays_within_eight_levels_and_fools() -> None:
    network, images = Linear(0), image_set(40)
    found = pgd_images(network, images, derive_generator(0, "test"))
    levels = 255 * found - images.pixels
    assert float(levels.abs().max()) <= 8 + 1e-3
    assert bool(((255 * found).round() - 255 * found).abs().max() < 1e-3), "images of 8 bits"
    right = [int((network(pixels).argmax(dim=1) == images.labels).sum()) for pixels in (to_float(images.pixels), found)]
    assert right[1] < right[0]
    again = pgd_images(network, images, derive_generator(0, "test"))
    assert torch.equal(found, again)


def test_equal_networks_agree_and_scaled_ones_point_the_same_way() -> None:
    images = image_set(5)
    pixels = to_float(images.pixels)
    found = {
        bits: input_gradients(network, pixels, images.labels, 5)
        for bits, network in {TWO: Linear(0, gain=0.01), FLOAT: Linear(0), EIGHT: Linear(0)}.items()
    }
    rows = {(row.bits, row.metric): row for row in gradient_agreements("perturbed", found)}
    assert [key for key in rows] == [("8", "cosine"), ("8", "mse"), ("2", "cosine"), ("2", "mse")]
    assert rows["8", "cosine"].value == pytest.approx(1)
    assert rows["8", "mse"].value == 0
    assert rows["2", "mse"].value > 0
    for row in rows.values():
        assert (row.images, row.layer, row.reference_bits, row.n_images) == ("perturbed", "input gradient", "32", 5)
        assert row.chance == (0.0 if row.metric == "cosine" else None)
        assert row.corrected == (row.value if row.metric == "cosine" else None)


@pytest.mark.numerical
def test_independent_networks_are_at_chance() -> None:
    images = image_set(64)
    pixels = to_float(images.pixels)
    found = {bits: input_gradients(Linear(seed), pixels, images.labels, 64) for bits, seed in ((FLOAT, 0), (TWO, 1))}
    row = next(row for row in gradient_agreements("clean", found) if row.metric == "cosine")
    assert abs(row.value) < 0.2
    assert row.standard_error is not None


def test_a_masked_gradient_is_counted() -> None:
    images = image_set(6)
    pixels = to_float(images.pixels)
    found = {
        bits: input_gradients(network, pixels, images.labels, 6)
        for bits, network in {FLOAT: Linear(0), TWO: Linear(0, gain=0.0)}.items()
    }
    for row in gradient_agreements("clean", found):
        assert row.n_blank == 6
    assert next(gradient_agreements("clean", found)).value == 0


def test_logits_that_are_not_finite_are_refused() -> None:
    images = image_set(2)
    with pytest.raises(QPatchBenchError, match="not finite: its gradients say nothing"):
        input_gradients(Linear(0, gain=float("nan")), to_float(images.pixels), images.labels, 2)
