"""Similarity of maps against scipy, slow references, set algebra and chance."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.ndimage
import torch

from qpatchbench.ops.maps.edges import hard_edges, slopes, thresholds
from qpatchbench.ops.maps.similarity import (
    chance_corrected,
    chance_level,
    cosine,
    edge_iou,
    edges,
    hog,
    mean_squared_error,
    pairwise_cosine,
    pairwise_soft_dice,
    prepared,
    soft_dice,
    soft_edges,
    soft_hog,
)

Descriptor = Callable[[torch.Tensor], torch.Tensor]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def maps(count: int, side: int, seed: int = 0) -> torch.Tensor:
    values = noise(count, side, side, seed=seed)
    centred = values - values.mean(dim=(1, 2), keepdim=True)
    return centred / centred.square().mean(dim=(1, 2), keepdim=True).sqrt()


def bilinear_votes(angle: float) -> np.ndarray:
    votes, position = np.zeros(9), (angle % math.pi) / (math.pi / 9) - 0.5
    lower = math.floor(position)
    votes[lower % 9] += 1 - (position - lower)
    votes[(lower + 1) % 9] += position - lower
    return votes


def softmax_votes(angle: float) -> np.ndarray:
    votes = [math.exp(10 * math.cos(2 * (angle - (index + 0.5) * math.pi / 9))) for index in range(9)]
    return np.array(votes) / sum(votes)


def slow_hog(image: np.ndarray, votes_of: Callable[[float], np.ndarray]) -> np.ndarray:
    """Pixel by pixel, cell by cell, block by block."""
    across, down = (scipy.ndimage.sobel(image, axis=axis, mode="nearest") for axis in (1, 0))
    cells = np.zeros((image.shape[0] // 4, image.shape[1] // 4, 9))
    for row in range(4 * cells.shape[0]):
        for column in range(4 * cells.shape[1]):
            x, y = across[row, column], down[row, column]
            cells[row // 4, column // 4] += math.hypot(x, y) * votes_of(math.atan2(y, x)) / 16
    blocks = []
    for row in range(cells.shape[0] - 1):
        for column in range(cells.shape[1] - 1):
            block = cells[row : row + 2, column : column + 2].ravel()
            block = np.minimum(block / np.sqrt(block @ block + 1e-6), 0.2)
            blocks.append(block / np.sqrt(block @ block + 1e-6))
    return np.stack(blocks)


@pytest.mark.parametrize(("votes_of", "descriptor"), [(bilinear_votes, hog), (softmax_votes, soft_hog)])
@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (13, 22)])
def test_hog_is_what_a_slow_one_computes(
    votes_of: Callable[[float], np.ndarray], descriptor: Descriptor, shape: tuple[int, int]
) -> None:
    image = noise(1, *shape, seed=3)
    blocks = (shape[0] // 4 - 1) * (shape[1] // 4 - 1)
    found = descriptor(image)
    assert found.shape == (1, 36 * blocks)
    assert np.allclose(found.view(4 * 9, blocks).T, slow_hog(image[0].numpy(), votes_of), atol=1e-6)


def test_hog_bins_and_cells_are_where_they_should_be() -> None:
    """Rising along a row is angle 0, the border of the first and last bin; downwards is the middle of bin 4."""
    ramp = torch.arange(8.0, dtype=torch.float64).expand(1, 8, 8)
    histogram = hog(ramp).view(4, 9)
    assert torch.allclose(histogram[:, 0], histogram[:, 8])
    assert bool((histogram[:, 1:8] < 1e-6).all())
    downwards = hog(ramp.transpose(1, 2)).view(4, 9)
    assert bool((downwards[:, 4] > 0.4).all())
    assert float(downwards.sum() - downwards[:, 4].sum()) < 1e-6
    lone = torch.zeros(1, 8, 8, dtype=torch.float64)
    lone[0, 1, 6] = 1
    assert (hog(lone).view(4, 9).amax(dim=1) > 0.01).tolist() == [False, True, False, False]


def test_sobel_is_that_of_scipy() -> None:
    images = noise(3, 9, 14)
    found = slopes(images)
    for index, image in enumerate(images.numpy()):
        assert np.allclose(found.across[index], scipy.ndimage.sobel(image, axis=1, mode="nearest"))
        assert np.allclose(found.down[index], scipy.ndimage.sobel(image, axis=0, mode="nearest"))
        assert np.allclose(edges(images)[index] ** 2, found.across[index] ** 2 + found.down[index] ** 2)


@pytest.mark.parametrize(("side", "expected"), [(8, 8), (15, 15), (16, 8), (17, 8), (32, 16)])
def test_prepared_maps_are_standardised_and_at_most_halved(side: int, expected: int) -> None:
    raw = 3e-4 * noise(4, 5, side, side) + 7
    found = prepared(raw)
    assert found.shape == (4, expected, expected)
    assert torch.allclose(found.mean(dim=(1, 2)), torch.zeros(4, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(found.square().mean(dim=(1, 2)), torch.ones(4, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(prepared(raw * 1000 - 5), found, atol=1e-6)
    assert torch.allclose(prepared(-raw), -found, atol=1e-9), "the channel mean keeps its sign"
    pooled = raw.mean(dim=1)[:, : 2 * expected, : 2 * expected]
    if side >= 16:
        pooled = pooled.view(4, expected, 2, expected, 2).mean(dim=(2, 4))
    by_hand = (pooled - pooled.mean(dim=(1, 2), keepdim=True)) / pooled.flatten(1).std(dim=1, correction=0).view(
        -1, 1, 1
    )
    assert torch.allclose(found, by_hand, atol=1e-6)


def test_channels_can_cancel() -> None:
    half = noise(2, 1, 8, 8)
    assert not prepared(torch.cat([half, -half], dim=1)).any()


def test_sixteen_bit_maps_are_prepared_in_single_precision() -> None:
    raw = (100 + noise(2, 8, 8, 8)).bfloat16()
    found = prepared(raw)
    assert found.dtype == torch.float32
    assert torch.allclose(found, prepared(raw.double()).float(), atol=1e-4)
    assert prepared(raw.double()).dtype == torch.float64


@pytest.mark.parametrize("quantile", [0.5, 0.85, 0.97])
@pytest.mark.parametrize("side", [8, 16, 31])
def test_each_map_has_its_own_quantile(quantile: float, side: int) -> None:
    values = maps(6, side) * torch.arange(1.0, 7.0, dtype=torch.float64).view(-1, 1, 1)
    found = thresholds(edges(values), quantile)
    expected = np.quantile(edges(values).flatten(1).numpy(), quantile, axis=1, method="inverted_cdf")
    assert np.allclose(found.flatten(), expected)
    for cut in (soft_edges(values, quantile=quantile) > 0.5, hard_edges(values, quantile)):
        share = cut.double().mean(dim=(1, 2))
        assert bool(((share - (1 - quantile)).abs() <= 1 / side**2).all())


def test_the_threshold_is_a_constant_to_the_gradient() -> None:
    values = maps(1, 8).requires_grad_()
    torch.autograd.backward(soft_edges(values, sharpness=2.0).sum())
    detached = values.detach().clone().requires_grad_()
    magnitudes = edges(detached)
    torch.autograd.backward(torch.sigmoid(2.0 * (magnitudes - float(thresholds(magnitudes)))).sum())
    assert values.grad is not None
    assert detached.grad is not None
    assert torch.allclose(values.grad, detached.grad)


@pytest.mark.numerical
@pytest.mark.parametrize("side", [16, 32])
def test_soft_dice_is_a_similarity(side: int) -> None:
    one, other = soft_edges(maps(40, side)), soft_edges(maps(40, side, seed=1))
    found = soft_dice(one, other)
    assert torch.equal(found, soft_dice(other, one))
    assert 0 < float(found.min()) <= float(found.max()) < 1
    # Over five draws 0.969 or more, and 0.987 in the mean.
    assert float(soft_dice(one, one).min()) > 0.95
    assert float(soft_dice(one, one).mean()) > 0.98
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    assert torch.equal(soft_dice(one[shuffled], other[shuffled]), found[shuffled])


def test_soft_dice_becomes_the_dice_of_sets() -> None:
    one, other = maps(20, 16), maps(20, 16, seed=1) + maps(20, 16)
    a, b = hard_edges(one), hard_edges(other)
    exact = 2 * (a & b).sum(dim=(1, 2)) / (a.sum(dim=(1, 2)) + b.sum(dim=(1, 2)))
    # At the threshold itself a soft edge is one half, which is one pixel of a set of 38.
    errors = [float((soft_dice(soft_edges(one, k), soft_edges(other, k)) - exact).abs().max()) for k in (1, 1e2, 1e8)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1 / 38
    assert torch.allclose(edge_iou(one, other), exact / (2 - exact)), "IoU = D / (2 - D)"


@pytest.mark.numerical
def test_raw_gradients_have_no_soft_edges() -> None:
    """Why maps are standardised: at the scale of input gradients, any two maps have SoftDice one half."""
    one, other = 1e-5 * noise(9, 16, 16), 1e-5 * noise(9, 16, 16, seed=1)
    for pair in ((one, other), (one, one)):
        found = soft_dice(*map(soft_edges, pair))
        assert bool(((found > 0.495) & (found < 0.505)).all())
    identical, independent = (
        soft_dice(soft_edges(prepared(one.unsqueeze(1))), soft_edges(prepared(second.unsqueeze(1))))
        for second in (one, other)
    )
    assert float(identical.mean()) > 0.95
    assert float(independent.mean()) < 0.25


def test_flat_maps_have_no_hard_edges() -> None:
    flat, rough = torch.zeros(3, 8, 8, dtype=torch.float64), maps(3, 8)
    assert not hard_edges(flat).any()
    assert edge_iou(flat, flat).tolist() == [1, 1, 1]
    assert edge_iou(flat, rough).tolist() == [0, 0, 0]
    assert edge_iou(rough, rough).tolist() == [1, 1, 1]


@pytest.mark.parametrize("descriptor", [hog, soft_hog])
def test_hog_ignores_scale_offset_and_sign(descriptor: Descriptor) -> None:
    values = maps(10, 16)
    for other in (3 * values, values + 5, -values):
        assert torch.allclose(cosine(descriptor(values), descriptor(other)), torch.ones(10).double(), atol=1e-5)
    assert 0 <= float(descriptor(values).min()) <= float(descriptor(values).max()) <= 1


def test_a_rotated_map_is_no_more_alike_than_chance() -> None:
    values = maps(300, 16)
    rotated = float(cosine(soft_hog(values), soft_hog(values.rot90(1, (1, 2)))).mean())
    chance = float(cosine(soft_hog(values), soft_hog(maps(300, 16, seed=1))).mean())
    assert rotated == pytest.approx(chance, abs=0.01)
    assert chance == pytest.approx(0.79, abs=0.02)


@pytest.mark.parametrize(
    ("metric", "size", "expected"),
    [
        (lambda one, other: cosine(hog(one), hog(other)), (16, 16), 0.77),
        (lambda one, other: cosine(hog(one), hog(other)), (8, 8), 0.765),
        (lambda one, other: cosine(soft_hog(one, 2.0), soft_hog(other, 2.0)), (16, 16), 0.915),
        (lambda one, other: cosine(soft_hog(one), soft_hog(other)), (16, 16), 0.79),
        (lambda one, other: cosine(soft_hog(one, 20.0), soft_hog(other, 20.0)), (16, 16), 0.74),
        (lambda one, other: soft_dice(soft_edges(one), soft_edges(other)), (16, 16), 0.157),
        (edge_iou, (32, 32), 0.15 / (2 - 0.15)),
        (edge_iou, (16, 24), 0.15 / (2 - 0.15)),
        (cosine, (16, 16), 0.0),
        (mean_squared_error, (16, 16), 2.0),
    ],
)
def test_chance_levels(
    metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], size: tuple[int, int], expected: float
) -> None:
    found = [chance_level(metric, size, 400, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert found[0] == pytest.approx(expected, abs=0.012)
    assert found[2] == pytest.approx(expected, abs=0.012)


def test_chance_is_corrected_for() -> None:
    assert chance_corrected(0.77, 0.77) == 0
    assert chance_corrected(1.0, 0.77) == 1
    assert chance_corrected(0.5, 0.75) == -1
    assert chance_corrected(0.4, 0.0) == 0.4


def dice_with_fixed_thresholds(values: torch.Tensor) -> torch.Tensor:
    """The threshold of `soft_edges` is no part of its gradient, but of finite differences."""
    return soft_dice(torch.sigmoid(3 * (edges(values) - 4)), soft_edges(maps(1, 8)))


@pytest.mark.parametrize("descriptor", [soft_hog, edges, dice_with_fixed_thresholds])
def test_derivatives_are_right_twice(descriptor: Descriptor) -> None:
    values = maps(1, 8, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(descriptor, values)
    assert torch.autograd.gradgradcheck(descriptor, values, fast_mode=True)


def test_derivatives_of_preparation_are_right_twice() -> None:
    raw = noise(2, 2, 8, 8, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(prepared, raw)
    assert torch.autograd.gradgradcheck(prepared, raw, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, -3e-9])
def test_flat_maps_are_finite_to_the_second_order(dtype: torch.dtype, value: float) -> None:
    raw = torch.full((2, 3, 16, 16), value, dtype=dtype).requires_grad_()
    ready = prepared(raw)
    total = soft_hog(ready).sum() + soft_edges(ready).sum() + cosine(soft_hog(ready), soft_hog(ready)).sum()
    (first,) = torch.autograd.grad(total, raw, create_graph=True)
    (second,) = torch.autograd.grad((first * noise(*raw.shape).to(dtype)).sum(), raw)
    assert bool(total.isfinite())
    assert bool(first.isfinite().all())
    assert bool(second.isfinite().all())


@pytest.mark.parametrize("descriptor", [hog, soft_hog])
def test_maps_without_a_block_are_an_error(descriptor: Descriptor) -> None:
    with pytest.raises(ValueError, match="at least 8 x 8, the 2 x 2 cells of a block, found 7 x 12"):
        descriptor(noise(2, 7, 12))
    assert descriptor(noise(2, 8, 12)).shape == (2, 72)


def test_pairs_are_the_means_of_single_ones() -> None:
    one, other = soft_edges(maps(12, 8)).view(3, 4, 8, 8), soft_edges(maps(8, 8, seed=1)).view(2, 4, 8, 8)
    dice, alike = pairwise_soft_dice(one, other), pairwise_cosine(one.flatten(2), other.flatten(2))
    assert dice.shape == alike.shape == (3, 2)
    for row in range(3):
        for column in range(2):
            assert dice[row, column] == pytest.approx(float(soft_dice(one[row], other[column]).mean()))
            assert alike[row, column] == pytest.approx(float(cosine(one[row], other[column]).mean()))
    assert torch.allclose(pairwise_cosine(one.flatten(2), one.flatten(2)).diagonal(), torch.ones(3).double())
    assert torch.allclose(pairwise_soft_dice(one, one), pairwise_soft_dice(one, one).T)


def test_cosine_and_squared_error_by_hand() -> None:
    one, other = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]]), torch.tensor([[[4.0, 3.0]], [[1.0, 1.0]]])
    assert cosine(one, other).tolist() == pytest.approx([24 / 25, 0])
    assert mean_squared_error(one, other).tolist() == pytest.approx([1, 1])
