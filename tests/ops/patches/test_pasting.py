"""Pasting against numpy slicing, autograd, exact quarter turns and the law of large numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qpatchbench.ops.patches.pasting import _paste_warped, paste, round_to_8_bit, to_float, to_uint8
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.types import Placement

ODD_VALUES = (-0.0, 0.0, float("nan"), float("inf"), -float("inf"), 1e-45, -3.5, 7.25)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def straight(rows: list[int], columns: list[int], angle: float = 0.0, scale: float = 1.0) -> Placement:
    count = len(rows)
    return Placement(
        torch.tensor(rows), torch.tensor(columns), torch.full((count,), angle), torch.full((count,), scale)
    )


def bits_of(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view(torch.int32)


def by_slicing(images: torch.Tensor, textures: torch.Tensor, masks: torch.Tensor, at: Placement) -> torch.Tensor:
    """One image after the other, with numpy slices; whole pixels are copied or left alone."""
    result = images.detach().numpy().copy()
    height, width = textures.shape[-2:]
    for index in range(len(result)):
        row, column = int(at.rows[index]), int(at.columns[index])
        texture = textures[index % len(textures)].detach().numpy()
        mask = masks[index % len(masks), 0].numpy().astype(bool)
        window = result[index, :, row : row + height, column : column + width]
        window[:, mask] = texture[:, mask]
    return torch.from_numpy(result)


@pytest.mark.parametrize("one_texture", [True, False])
@pytest.mark.parametrize("one_mask", [True, False])
@pytest.mark.parametrize("size", [(3, 5), (1, 1), (9, 11)])
def test_paste_equals_numpy_slicing(one_texture: bool, one_mask: bool, size: tuple[int, int]) -> None:
    generator = draws(sum(size))
    images = torch.randn(7, 3, 9, 11, generator=generator)
    textures = torch.rand(1 if one_texture else 7, 3, *size, generator=generator)
    masks = (torch.rand(1 if one_mask else 7, 1, *size, generator=generator) < 0.7).float()
    placement = sample_placement(7, (9, 11), size, generator)
    pasted = paste(images, textures, masks, placement)
    assert torch.equal(bits_of(pasted), bits_of(by_slicing(images, textures, masks, placement)))


@pytest.mark.parametrize("angle", [0.0, 33.0])
def test_outside_the_mask_every_bit_is_the_images(angle: float) -> None:
    generator = draws(0)
    images = torch.tensor(ODD_VALUES)[torch.randint(0, len(ODD_VALUES), (6, 3, 8, 8), generator=generator)]
    before = images.clone()
    masks = torch.ones(1, 1, 3, 3)
    masks[..., 1, 1] = 0  # a hole shows the image, also under a texture of zeros
    placement = straight([0, 5, 2, 3, 0, 5], [0, 5, 3, 0, 5, 2], angle)
    pasted = paste(images, torch.zeros(1, 3, 3, 3), masks, placement)
    covered = paste(torch.zeros(6, 3, 8, 8), torch.ones(1, 3, 3, 3), masks, placement) > 0.5
    assert 0 < int(covered.sum()) < covered.numel()
    assert torch.equal(bits_of(pasted)[~covered], bits_of(before)[~covered])
    assert (pasted[covered] == 0).all()
    assert torch.equal(bits_of(images), bits_of(before)), "the input images were written to"


def test_texture_values_land_unchanged() -> None:
    textures = torch.rand(1, 3, 4, 4, generator=draws(1))
    pasted = paste(torch.zeros(2, 3, 8, 8), textures, torch.ones(1, 1, 4, 4), straight([4, 0], [1, 4]))
    assert torch.equal(pasted[0, :, 4:8, 1:5], textures[0])
    assert torch.equal(pasted[1, :, 0:4, 4:8], textures[0])


@pytest.mark.parametrize("angle", [0.0, 20.0])
def test_gradients_reach_texture_and_image_through_complementary_masks(angle: float) -> None:
    generator = draws(2)
    images = torch.rand(5, 3, 10, 10, generator=generator).requires_grad_()
    texture = torch.rand(1, 3, 4, 4, generator=generator).requires_grad_()
    masks = torch.ones(1, 1, 4, 4)
    placement = straight([0, 6, 3, 1, 6], [0, 6, 3, 5, 0], angle)
    covered = paste(torch.zeros(5, 3, 10, 10), torch.ones(1, 3, 4, 4), masks, placement) > 0.5
    weight = torch.randn(5, 3, 10, 10, generator=generator)
    total = (paste(images, texture, masks, placement) * weight).sum()
    of_images, of_texture = torch.autograd.grad(total, (images, texture))
    assert torch.equal(of_images, torch.where(covered, 0.0, weight)), "image gradient: 1 outside, exactly 0 under it"
    # Every pixel of the image that the patch covers passes its whole weight on to texture pixels.
    totals = (weight * covered).sum(dim=(0, 2, 3))
    assert torch.allclose(of_texture.sum(dim=(0, 2, 3)), totals, atol=1e-5)


def test_texture_gradient_equals_that_of_slices() -> None:
    generator = draws(3)
    images = torch.rand(6, 3, 9, 9, generator=generator)
    masks = (torch.rand(1, 1, 4, 3, generator=generator) < 0.6).float()
    weight = torch.randn(6, 3, 9, 9, generator=generator, dtype=torch.float64)
    placement = sample_placement(6, (9, 9), (4, 3), generator)
    texture = torch.rand(1, 3, 4, 3, generator=generator).requires_grad_()
    (gradient,) = torch.autograd.grad((paste(images, texture, masks, placement).square() * weight).sum(), texture)
    expected = torch.zeros(3, 4, 3, dtype=torch.float64)
    for index in range(6):
        row, column = int(placement.rows[index]), int(placement.columns[index])
        window = weight[index, :, row : row + 4, column : column + 3]
        expected += 2 * window * texture.detach()[0].double() * masks[0].double()
    assert torch.allclose(gradient[0].double(), expected, atol=1e-5)
    assert (gradient[:, :, masks[0, 0] == 0] == 0).all(), "masked-out texture pixels must get exactly no gradient"


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (5, 3), (8, 8)])
def test_warped_path_without_a_warp_is_the_hard_paste(size: tuple[int, int]) -> None:
    generator = draws(4)
    images, textures = torch.rand(9, 3, 8, 8, generator=generator), torch.rand(9, 3, *size, generator=generator)
    masks = (torch.rand(9, 1, *size, generator=generator) < 0.7).float()
    placement = sample_placement(9, (8, 8), size, generator)
    warped = _paste_warped(images, textures, masks, placement)
    assert torch.allclose(warped, paste(images, textures, masks, placement), atol=1e-5)


@pytest.mark.parametrize("turns", [-2, -1, 1, 2])
@pytest.mark.parametrize("size", [3, 4, 6])
def test_quarter_turns_are_counter_clockwise(turns: int, size: int) -> None:
    generator = draws(5)
    images, textures = torch.rand(3, 3, 9, 9, generator=generator), torch.rand(1, 3, size, size, generator=generator)
    placement = straight([0, 9 - size, 2], [9 - size, 0, 1], 90.0 * turns)
    ones = torch.ones(1, 1, size, size)
    turned = torch.rot90(textures, turns, (2, 3))  # counter-clockwise as an array is printed, rows downwards
    straight_up = straight([0, 9 - size, 2], [9 - size, 0, 1])
    assert torch.allclose(paste(images, textures, ones, placement), paste(images, turned, ones, straight_up), atol=1e-5)


@pytest.mark.parametrize("size", range(3, 13))
def test_rotated_area_is_that_of_the_square_up_to_its_pixels(size: int) -> None:
    angles = torch.linspace(-45, 45, 901)
    middle = torch.full((901,), 12)
    placement = Placement(middle, middle, angles, torch.ones(901))
    square = torch.ones(1, 1, size, size)
    areas = (paste(torch.zeros(901, 1, 36, 36), square, square, placement) > 0.5).sum(dim=(1, 2, 3))
    # Independent count: pixel centres inside the ideal rotated square.
    y = (torch.arange(36) - 12 - (size - 1) / 2).view(1, -1, 1)
    x = (torch.arange(36) - 12 - (size - 1) / 2).view(1, 1, -1)
    cosine, sine = torch.cos(torch.deg2rad(angles)).view(-1, 1, 1), torch.sin(torch.deg2rad(angles)).view(-1, 1, 1)
    nearest = torch.maximum((cosine * x - sine * y).abs(), (sine * x + cosine * y).abs())
    assert (areas <= (nearest <= size / 2 + 1e-4).sum(dim=(1, 2))).all(), "a pixel outside the square is painted"
    # Counting pixel centres, the mean over angles misses size^2 by a fraction that vanishes with the size.
    assert float(areas.float().mean()) <= 1.021 * size**2
    assert float(areas.max()) <= 1.17 * size**2


@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
def test_scaled_area_follows_the_scale(scale: float) -> None:
    covered = paste(
        torch.zeros(1, 1, 40, 40), torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8), straight([16], [16], 0, scale)
    )
    assert abs(float(covered.sum()) - (8 * scale) ** 2) <= 2 * 8 * scale
    rows = covered[0, 0].any(dim=1).nonzero().flatten().float()
    assert float(rows.mean()) == pytest.approx(19.5, abs=0.51), "scaling must keep the patch's centre"


def test_a_corner_over_the_border_is_cut_off() -> None:
    images = torch.full((2, 3, 12, 12), 0.25)
    placement = straight([0, 6], [0, 6], 45.0)
    pasted = paste(images, torch.ones(1, 3, 6, 6), torch.ones(1, 1, 6, 6), placement)
    large = torch.full((2, 3, 36, 36), 0.25)
    inner = paste(large, torch.ones(1, 3, 6, 6), torch.ones(1, 1, 6, 6), straight([12, 18], [12, 18], 45.0))
    assert pasted.shape == images.shape
    assert torch.equal(pasted, inner[..., 12:24, 12:24])
    assert float((inner == 1).sum()) > float((pasted == 1).sum()), "nothing hung over: the test is void"


def test_warped_values_stay_within_those_of_the_texture() -> None:
    generator = draws(6)
    texture = 0.3 + 0.4 * torch.rand(1, 3, 6, 6, generator=generator)
    placement = sample_placement(200, (16, 16), (6, 6), generator, rotation=180.0, scale=(0.5, 1.5))
    pasted = paste(torch.zeros(200, 3, 16, 16), texture, torch.ones(1, 1, 6, 6), placement)
    inside = pasted[pasted != 0]
    assert float(inside.min()) >= float(texture.min()) - 1e-6
    assert float(inside.max()) <= float(texture.max()) + 1e-6


def test_expectation_gradient_converges_like_one_over_the_root_of_the_draws() -> None:
    generator = draws(7)
    weight = torch.randn(1, 3, 16, 16, generator=generator)

    def gradient(count: int) -> torch.Tensor:
        texture = torch.full((1, 3, 5, 5), 0.5, requires_grad=True)
        placement = sample_placement(count, (16, 16), (5, 5), generator, rotation=22.5)
        pasted = paste(torch.zeros(count, 3, 16, 16), texture, torch.ones(1, 1, 5, 5), placement)
        return torch.autograd.grad((pasted * weight).sum() / count, texture)[0]

    truth = torch.stack([gradient(5000) for _ in range(4)]).mean(dim=0)
    counts = [8, 32, 128, 512]
    errors = [float(np.mean([float((gradient(k) - truth).square().sum()) for _ in range(24)])) ** 0.5 for k in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.12), f"errors {errors} at {counts} draws"


def test_eight_bits_round_to_the_nearest_level() -> None:
    levels = torch.arange(256) / 255
    assert torch.equal(round_to_8_bit(levels), to_float(torch.arange(256).to(torch.uint8)))
    assert torch.equal(to_uint8(levels), torch.arange(256).to(torch.uint8)), "a stored picture must come back"
    values = torch.rand(20_000, generator=draws(8))
    error = round_to_8_bit(values) - values
    assert float(error.abs().max()) <= 0.5 / 255 + 1e-7
    assert abs(float(error.mean())) < 0.02 / 255, "a truncating writer would darken by half a level"
    assert torch.equal(round_to_8_bit(round_to_8_bit(values)), round_to_8_bit(values))
    assert to_uint8(torch.tensor([-0.5, 1.5, 0.499 / 255, 0.501 / 255])).tolist() == [0, 255, 0, 1]
