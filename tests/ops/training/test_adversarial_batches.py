"""Batches that are attacked in part: which images, what they weigh, and signed ascent against a linear oracle."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.nn import functional

from qpatchbench.errors import TrainingError
from qpatchbench.ops.crafting.pixel_attacks import projected, random_start, signed_step
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.ops.training.adversarial_batches import (
    PartlyAttacked,
    ascended_images,
    cross_entropies,
    drawn_bits,
    fitting_side,
    partly_attacked,
)
from qpatchbench.types import Bits, Network, Size

COUNT, SIDE, CLASSES = 10, 4, 3
PIXELS = 3 * SIDE * SIDE
WIDTHS = tuple(map(Bits.parse, (32, 8, 4)))


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return (1.4 * torch.rand(COUNT, 3, SIDE, SIDE, generator=draws(0)) - 0.2).clamp(0, 1)


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(COUNT) % CLASSES


@pytest.fixture
def weight() -> torch.Tensor:
    return 0.1 * torch.randn(PIXELS, CLASSES, generator=draws(1))


def darkened(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return images / 2


@pytest.mark.parametrize(
    ("share", "count", "attacked"),
    [(0.5, 10, 5), (0.5, 9, 4), (1.0, 10, 10), (0.25, 10, 2), (0.1, 10, 1), (0.7, 10, 7), (0.0, 10, 0), (0.99, 10, 9)],
)
def test_the_last_images_are_attacked(
    images: torch.Tensor, labels: torch.Tensor, share: float, count: int, attacked: int
) -> None:
    given = images[:count].clone()
    partly = partly_attacked(given, labels[:count], share, darkened)
    assert partly.attacked == attacked
    clean = count - attacked
    assert torch.equal(partly.images[:clean], images[:clean])
    assert torch.equal(partly.images[clean:], images[clean:count] / 2)
    assert torch.equal(partly.labels, labels[:count])
    assert torch.equal(given, images[:count]), "the batch itself was changed"


def test_shares_in_percent_do_not_round_down_by_one(labels: torch.Tensor) -> None:
    images, many = torch.zeros(100, 1, 1, 1), torch.zeros(100, dtype=torch.int64)
    counts = [partly_attacked(images, many, percent / 100, darkened).attacked for percent in range(101)]
    assert counts == list(range(101))


def test_without_a_share_nothing_is_attacked_or_copied(images: torch.Tensor, labels: torch.Tensor) -> None:
    def never(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        raise AssertionError("attacked")

    assert partly_attacked(images, labels, 0.0, never).images is images


@pytest.mark.parametrize(("share", "count", "needed"), [(0.5, 1, 2), (0.25, 3, 4), (0.1, 9, 10), (0.3, 3, 4)])
def test_a_batch_too_small_for_its_share_is_an_error(
    images: torch.Tensor, labels: torch.Tensor, share: float, count: int, needed: int
) -> None:
    message = f"batch_size of at least {needed}, of which a share of {share:g} is attacked, found {count}$"
    with pytest.raises(TrainingError, match=message):
        partly_attacked(images[:count], labels[:count], share, darkened)
    assert partly_attacked(images[:needed], labels[:needed], share, darkened).attacked == 1


def test_the_attack_leaves_no_graph(images: torch.Tensor, labels: torch.Tensor) -> None:
    scale = torch.ones((), requires_grad=True)
    for share in (0.5, 1.0):
        assert not partly_attacked(images, labels, share, lambda x, y: x * scale).images.requires_grad


@pytest.mark.parametrize("attacked", range(COUNT + 1))
@pytest.mark.parametrize("widths", [WIDTHS, WIDTHS[:1]])
def test_terms_add_up_to_the_mean_over_all_images(
    images: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, attacked: int, widths: tuple[Bits, ...]
) -> None:
    """Weights are the shares of the samples, so the split changes neither loss nor gradient."""
    asked: list[Bits] = []

    def at(bits: Bits) -> Network:
        asked.append(bits)
        return lambda images: images.double().flatten(1) @ (weight.double() * (1 + 1 / bits.weight))

    weight = weight.double().requires_grad_()
    terms = cross_entropies(at, widths, PartlyAttacked(images, labels, attacked), "patched")
    assert asked == list(widths), "one pass per width, for both parts together"
    assert set(terms) == ({"clean"} if attacked < COUNT else set()) | ({"patched"} if attacked else set())
    logits = [images.double().flatten(1) @ (weight * (1 + 1 / bits.weight)) for bits in widths]
    whole = torch.stack([functional.cross_entropy(each, labels) for each in logits]).mean()
    total = torch.stack(list(terms.values())).sum()
    assert float(total.detach()) == pytest.approx(float(whole.detach()), rel=1e-12)
    own, expected = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (total, whole))
    assert torch.allclose(own, expected, rtol=1e-12, atol=1e-15)
    if attacked:
        each = [functional.cross_entropy(each, labels, reduction="none")[COUNT - attacked :].sum() for each in logits]
        summed = float(torch.stack(each).mean().detach())
        assert float(terms["patched"].detach()) == pytest.approx(summed / COUNT, rel=1e-12)


def test_one_part_alone_is_plain_cross_entropy_to_the_bit(
    images: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor
) -> None:
    for attacked, name in ((0, "clean"), (COUNT, "patched")):
        terms = cross_entropies(
            lambda bits: lambda x: x.flatten(1) @ weight,
            WIDTHS[:1],
            PartlyAttacked(images, labels, attacked),
            "patched",
        )
        assert torch.equal(terms[name], functional.cross_entropy(images.flatten(1) @ weight, labels))


def test_widths_are_drawn_uniformly() -> None:
    generator = draws(2)
    counts = Counter(drawn_bits(WIDTHS, generator) for _ in range(1500))
    assert sum((counts[bits] - 500) ** 2 / 500 for bits in WIDTHS) < 13.8, "chi-square, 2 degrees, one in a thousand"
    assert drawn_bits(WIDTHS[1:2], generator) == WIDTHS[1]


def test_ascent_reaches_the_optimum_of_a_linear_network(images: torch.Tensor, weight: torch.Tensor) -> None:
    """With two classes the cross-entropy rises along w_other - w_label: the answer is a vertex of ball and box."""
    labels, weight = torch.arange(COUNT) % 2, weight[:, :2]
    found = ascended_images(
        lambda x: x.flatten(1) @ weight, images, labels, images, epsilon=0.1, step_size=0.03, steps=4
    )
    uphill = (weight.T[1 - labels] - weight.T[labels]).view_as(images)
    assert torch.allclose(found, (images + 0.1 * uphill.sign()).clamp(0, 1), atol=1e-6)
    assert not found.requires_grad


@pytest.mark.numerical
def test_ascent_raises_the_loss_at_every_step(images: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> None:
    losses: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        logits = x.flatten(1) @ weight
        losses.append(functional.cross_entropy(logits, labels, reduction="none").detach())
        return logits

    found = ascended_images(network, images, labels, images, epsilon=0.1, step_size=0.01, steps=9)
    network(found)
    assert len(losses) == 10
    assert all((after > before).all() for before, after in zip(losses, losses[1:], strict=False))


def test_bounds_can_differ_from_pixel_to_pixel(
    images: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor
) -> None:
    """Two bounds in one image give what each gives alone, pixel by pixel; on a linear network pixels are separate."""
    labels, weight = labels % 2, weight[:, :2]
    mask = torch.rand(COUNT, 1, SIDE, SIDE, generator=draws(4)) < 0.5

    def run(epsilon: float | torch.Tensor, step_size: float | torch.Tensor) -> torch.Tensor:
        streams = ImageDraws.of(COUNT, draws(5), torch.device("cpu"))
        start = random_start(images, streams, epsilon)
        return ascended_images(
            lambda x: x.flatten(1) @ weight, images, labels, start, epsilon=epsilon, step_size=step_size, steps=3
        )

    strong, weak = run(0.3, 0.05), run(0.02, 0.01)
    both = run(torch.where(mask, 0.3, 0.02), torch.where(mask, 0.05, 0.01))
    assert torch.equal(both, torch.where(mask, strong, weak))


def test_one_bound_as_a_tensor_is_that_bound_to_the_bit(images: torch.Tensor) -> None:
    far, bound = images + torch.randn(images.shape, generator=draws(6)), torch.tensor(8 / 255)
    assert torch.equal(projected(far, images, bound), projected(far, images, 8 / 255))
    stepped = [signed_step(images, far, images, step_size=each, epsilon=1.0) for each in (bound, 8 / 255)]
    assert torch.equal(*stepped)


def test_a_ball_of_no_size_leaves_images_to_the_bit(
    images: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor
) -> None:
    streams = ImageDraws.of(COUNT, draws(7), torch.device("cpu"))
    start = random_start(images, streams, 0.0)
    found = ascended_images(lambda x: x.flatten(1) @ weight, images, labels, start, epsilon=0.0, step_size=0.1, steps=3)
    assert torch.equal(found, images)


def test_sides_in_pixels_and_shares_fit_or_are_an_error() -> None:
    images = torch.zeros(1, 3, 32, 32)
    assert fitting_side(Size(pixels=8), images) == 8
    assert fitting_side(Size(percent=4), images) == 6
    assert fitting_side(Size(pixels=32), images) == 32
    with pytest.raises(TrainingError, match="training images of 32 x 32 pixels, found 33 x 33; make its size smaller"):
        fitting_side(Size(pixels=33), images)
    with pytest.raises(TrainingError, match="8 x 32 pixels, found 9 x 9"):
        fitting_side(Size(pixels=9), images[:, :, :8])
