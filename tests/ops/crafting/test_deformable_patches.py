"""The differentiable star: areas, an independent reference, symmetries, gradients, budgets, and the soft paste."""

from __future__ import annotations

import math

import pytest
import torch

from qpatchbench.ops.crafting.deformable_patches import (
    Sectors,
    boxes_around,
    fitted_mask,
    hard_mask,
    of_area,
    of_length_1,
    paste_softly,
    polygon_area,
    ratios,
    sectors_of,
    soft_mask,
    start_rays,
)
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import paste
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import ImageDraws


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rays(count: int, rays: int, seed: int = 0) -> torch.Tensor:
    """Float64, between 1.5 and 6.5 pixels."""
    return 1.5 + 5 * torch.rand(count, rays, generator=draws(seed), dtype=torch.float64)


def in_the_middle(count: int, side: int, rays: int) -> Sectors:
    return sectors_of(torch.full((count, 2), (side - 1) / 2, dtype=torch.float64), side, rays)


def published_mask(rays: list[float], centre: tuple[float, float], side: int, sharpness: float) -> torch.Tensor:
    """The authors' formula with |OD| from vertices and cross products, pixel after pixel, (side, side) float64."""

    def cross(first: tuple[float, float], second: tuple[float, float]) -> float:
        return first[0] * second[1] - first[1] * second[0]

    turn = 2 * math.pi / len(rays)
    ends = [(ray * math.cos(k * turn), ray * math.sin(k * turn)) for k, ray in enumerate(rays)]
    mask = torch.empty(side, side, dtype=torch.float64)
    for row in range(side):
        for column in range(side):
            right, down = column - centre[1], row - centre[0]
            distance = math.hypot(right, down)
            if distance == 0:
                mask[row, column] = 1
                continue
            k = int(math.atan2(down, right) % (2 * math.pi) / turn) % len(rays)
            first, second = ends[k], ends[(k + 1) % len(rays)]
            unit, chord = (right / distance, down / distance), (second[0] - first[0], second[1] - first[1])
            outline = cross(first, second) / cross(unit, chord)
            mask[row, column] = (math.tanh(-sharpness * (distance / outline - 1)) + 1) / 2
    return mask


@pytest.mark.parametrize("rays", [3, 4, 7, 12, 36])
@pytest.mark.parametrize("centre", [(6.0, 6.0), (5.5, 6.5), (1.5, 10.0)], ids=str)
@pytest.mark.parametrize("sharpness", [3.0, 10.0, 100.0])
def test_the_mask_is_the_published_formula(rays: int, centre: tuple[float, float], sharpness: float) -> None:
    """R = 7 does not divide 360, and the last centre is pushed to the corner of its box."""
    lengths = random_rays(1, rays)
    sectors = sectors_of(torch.tensor([centre], dtype=torch.float64), 13, rays)
    reference = published_mask(lengths[0].tolist(), centre, 13, sharpness)
    assert torch.allclose(soft_mask(lengths, sectors, sharpness)[0, 0], reference, atol=1e-9)
    assert torch.equal(hard_mask(lengths, sectors)[0, 0] > 0, reference > 0.5)


@pytest.mark.parametrize("radius", [2.0, 3.385, 5.0, 6.3, 8.0, 10.7, 15.0])
@pytest.mark.parametrize("half", [0.0, 0.5])
def test_equal_rays_are_a_regular_polygon(radius: float, half: float) -> None:
    """Area within one pixel of R r^2 sin(2 pi / R) / 2, measured with the band of the mask about a pixel wide."""
    rays = torch.full((1, 12), radius, dtype=torch.float64)
    sectors = sectors_of(torch.full((1, 2), 25 + half, dtype=torch.float64), 51, 12)
    area = 0.5 * 12 * radius**2 * math.sin(2 * math.pi / 12)
    assert polygon_area(rays).item() == pytest.approx(area)
    assert abs(float(soft_mask(rays, sectors, 3 * radius).sum()) - area) <= 1


def test_areas_are_exact_on_average_over_the_grid() -> None:
    """A lattice that is shifted uniformly holds, on average, as many points as the polygon's area."""
    for rays in (3, 7, 12):
        lengths = random_rays(1, rays, seed=rays)
        shifts = torch.arange(12, dtype=torch.float64) / 12
        centres = 8 + torch.cartesian_prod(shifts, shifts)
        masks = hard_mask(lengths.expand(144, -1), sectors_of(centres, 18, rays))
        assert float(masks.sum(dim=(1, 2, 3)).mean()) == pytest.approx(polygon_area(lengths).item(), rel=0.005)


@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize("rays", [4, 12, 20])
def test_turning_the_rays_turns_the_mask(side: int, rays: int) -> None:
    """A quarter of the rays is a quarter turn, clockwise on the screen; half-integer and integer centres."""
    lengths, sectors = random_rays(5, rays), in_the_middle(5, side, rays)
    for quarters in (1, 2, 3):
        rolled = lengths.roll(quarters * rays // 4, dims=1)
        assert torch.equal(hard_mask(rolled, sectors), hard_mask(lengths, sectors).rot90(-quarters, (2, 3)))
        turned = soft_mask(lengths, sectors, 10).rot90(-quarters, (2, 3))
        assert torch.allclose(soft_mask(rolled, sectors, 10), turned, atol=1e-12)


def test_scaling_the_rays_divides_the_ratios() -> None:
    lengths, sectors = random_rays(4, 7), in_the_middle(4, 14, 7)
    assert torch.allclose(ratios(3 * lengths, sectors), ratios(lengths, sectors) / 3, atol=1e-12)


@pytest.mark.parametrize("rays", [3, 7, 12])
@pytest.mark.parametrize("side", [10, 11])
def test_the_gradient_is_that_of_finite_differences(rays: int, side: int) -> None:
    lengths, sectors = random_rays(2, rays), in_the_middle(2, side, rays)
    weight = torch.randn(2, 1, side, side, generator=draws(1), dtype=torch.float64)

    def weighted(lengths: torch.Tensor) -> torch.Tensor:
        return (weight * soft_mask(lengths, sectors, 8.0)).sum()

    own = lengths.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(weighted(own), own)
    assert float(gradient.abs().min()) > 0
    for image in range(2):
        for ray in range(rays):
            step = torch.zeros_like(lengths)
            step[image, ray] = 1e-6
            slope = float(weighted(lengths + step) - weighted(lengths - step)) / 2e-6
            assert float(gradient[image, ray]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def rays_with_a_gradient(rays: int, sharpness: float) -> int:
    """How many rays of a circle of 36 pixels on an image of 32 x 32 feel the area of the mask."""
    radius = 6 / math.sqrt(math.pi)
    lengths = torch.full((1, rays), radius).requires_grad_()
    (gradient,) = torch.autograd.grad(soft_mask(lengths, in_the_middle(1, 12, rays), sharpness).sum(), lengths)
    return int((gradient.abs() > 1e-3).sum())


def test_the_published_sharpness_freezes_a_small_shape() -> None:
    """The trap of small images: at 100 no pixel lies in the band of the mask beside most rays."""
    assert rays_with_a_gradient(12, 10) == 12
    assert rays_with_a_gradient(12, 100) == 0
    assert rays_with_a_gradient(36, 10) == 36
    assert rays_with_a_gradient(36, 100) <= 20


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-3, 1e4])
@pytest.mark.parametrize("sharpness", [10.0, 100.0])
@pytest.mark.parametrize("side", [5, 6])
def test_nothing_is_nan_at_the_centre_or_for_vanishing_rays(length: float, sharpness: float, side: int) -> None:
    """On an odd side the centre is a pixel; 4 rays run along rows and columns, so that coordinates vanish too."""
    for count in (3, 4, 12):
        sectors = in_the_middle(2, side, count)
        lengths = torch.full((2, count), length)
        lengths[1, 1:] = 2.0  # one vanishing ray beside proper ones
        lengths.requires_grad_()
        mask = soft_mask(lengths, sectors, sharpness)
        (gradient,) = torch.autograd.grad(mask.sum(), lengths)
        assert torch.isfinite(mask).all()
        assert torch.isfinite(gradient).all()
        assert mask.min() >= 0
        assert mask.max() <= 1
        if side % 2:
            assert mask[:, 0, side // 2, side // 2].eq(1).all()
            assert hard_mask(lengths.detach(), sectors)[:, 0, side // 2, side // 2].eq(1).all()


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 10])
@pytest.mark.parametrize("rays", [3, 7, 12])
def test_the_budget_always_binds(side: int, rays: int) -> None:
    """Ordinary rays, far too long and short ones, and both in one shape; centred and pushed to a corner."""
    box, count = 2 * side - side % 2, 200
    spread = torch.randn(count, rays, generator=draws(side)) * torch.linspace(0, 8, count).view(-1, 1)
    lengths = side * spread.exp()
    assert lengths.max() > 1000 * side
    for centre in ((box - 1) / 2, (side - 1) / 2):
        sectors = sectors_of(torch.full((count, 2), centre, dtype=torch.float64), box, rays)
        masks = fitted_mask(lengths, sectors, side**2)
        assert masks.shape == (count, 1, box, box)
        assert ((masks == 0) | (masks == 1)).all()
        areas = masks.sum(dim=(1, 2, 3))
        assert areas.max() <= side**2
        assert areas.min() >= 1


def test_a_fitted_shape_is_the_same_shape_at_the_largest_size() -> None:
    lengths, sectors = random_rays(20, 12), in_the_middle(20, 12, 12)
    masks = fitted_mask(lengths, sectors, 36)
    assert masks.sum(dim=(1, 2, 3)).tolist() == [36] * 20, "without symmetry no two pixels enter together"
    for factor in (0.1, 3.0):
        assert torch.equal(fitted_mask(factor * lengths, sectors, 36), masks)
    ordered = ratios(lengths, sectors).flatten(1).sort(dim=1).values
    between = ordered[:, 35:37].mean(dim=1, keepdim=True)
    assert torch.equal(hard_mask(between * lengths, sectors), masks)


def test_pixels_that_tie_enter_together_or_not_at_all() -> None:
    """A square of four rays about a pixel takes in 1, 5, 13, 25 pixels, and nothing between."""
    lengths, sectors = torch.ones(1, 4), in_the_middle(1, 9, 4)
    for budget, area in ((1, 1), (4, 1), (5, 5), (12, 5), (13, 13), (24, 13), (25, 25), (81, 81), (100, 81)):
        assert int(fitted_mask(lengths, sectors, budget).sum()) == area


def test_boxes_keep_the_centre_of_the_square() -> None:
    for side, box, image in ((3, 5, 11), (6, 12, 32), (4, 8, 8), (5, 8, 8), (10, 20, 32), (1, 1, 4)):
        squares = sample_placement(300, (image, image), (side, side), draws(side))
        boxes = boxes_around(squares, side, box, image)
        for axis, (corners, own) in enumerate(
            ((squares.rows, boxes.placement.rows), (squares.columns, boxes.placement.columns))
        ):
            assert own.dtype == torch.int64
            assert own.min() >= 0
            assert own.max() <= image - box
            assert torch.equal(own + boxes.centres[:, axis], corners + (side - 1) / 2), "the centre stays"
            free = (corners >= box) & (corners < image - box)
            if box % 2 == side % 2:
                assert boxes.centres[free, axis].eq((box - 1) / 2).all(), "and is in the middle where there is room"
        assert boxes.placement.angles.eq(0).all()
        assert boxes.placement.scales.eq(1).all()


def test_starts_are_a_circle_a_star_and_random_shapes_of_one_area() -> None:
    streams = ImageDraws.of(6, draws(0), torch.device("cpu"))
    circle, star, third, fourth = (start_rays(restart, 12, streams) for restart in range(4))
    assert circle.eq(1).all()
    assert star[0].tolist() == [2, 1] * 6
    assert not torch.equal(third, fourth)
    assert not torch.equal(third[0], third[1])
    assert third.min() >= 0.5
    assert third.max() < 1.5
    for shape in (circle, star, third):
        assert torch.allclose(polygon_area(of_area(shape, 36)), torch.full((6,), 36.0), rtol=1e-5)
    few = ImageDraws.of(2, draws(0), torch.device("cpu"))
    assert torch.equal(start_rays(2, 12, few), third[:2]), "a stream per image"


def test_gradients_of_any_scale_become_of_length_1() -> None:
    vectors = torch.tensor([[3.0, 4.0], [3e-30, -4e-30], [0.0, 0.0], [0.0, 1e30]])
    assert torch.allclose(of_length_1(vectors), torch.tensor([[0.6, 0.8], [0.6, -0.8], [0.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_soft_paste_of_a_hard_mask_is_paste_to_the_bit(dtype: torch.dtype) -> None:
    images = torch.rand(9, 3, 14, 14, generator=draws(0), dtype=dtype)
    textures = torch.rand(9, 3, 5, 7, generator=draws(1), dtype=dtype)
    masks = (torch.rand(9, 1, 5, 7, generator=draws(2)) > 0.4).to(dtype)
    rows, columns = torch.arange(9), torch.arange(9) * 7 // 8  # 0..9 and 0..7 are the last places
    rows[-1] = 9
    placement = upright(rows, columns)
    soft = paste_softly(images, textures, masks, placement)
    assert torch.equal(soft, paste(images, textures, masks, placement))
    assert not torch.equal(soft, images)


def test_a_soft_paste_follows_the_mask() -> None:
    """The value and, for a linear function of the image, the gradient by hand."""
    images = torch.rand(4, 3, 9, 9, generator=draws(0), dtype=torch.float64)
    textures = torch.rand(4, 3, 4, 4, generator=draws(1), dtype=torch.float64)
    masks = torch.rand(4, 1, 4, 4, generator=draws(2), dtype=torch.float64).requires_grad_()
    weight = torch.randn(4, 3, 9, 9, generator=draws(3), dtype=torch.float64)
    rows, columns = torch.tensor([0, 5, 2, 3]), torch.tensor([5, 0, 1, 4])
    pasted = paste_softly(images, textures, masks, upright(rows, columns))
    (gradient,) = torch.autograd.grad((weight * pasted).sum(), masks)
    for index, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        window = (index, slice(None), slice(row, row + 4), slice(column, column + 4))
        expected = images[index].clone()
        mixed = (1 - masks[index]) * images[window] + masks[index] * textures[index]
        expected[window[1:]] = mixed.detach()
        assert torch.equal(pasted[index].detach(), expected)
        slope = (weight[window] * (textures[index] - images[window])).sum(dim=0)
        assert torch.allclose(gradient[index, 0], slope)
