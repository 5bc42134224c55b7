"""The texture dictionary: filters, styles that tell stripes from blobs, clusters, and what is synthesised from them."""

from __future__ import annotations

import math

import pytest
import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.patches import textures
from qpatchbench.ops.patches.pasting import round_to_8_bit, to_float, to_uint8
from qpatchbench.ops.patches.textures import (
    Bank,
    clustered,
    cut_out,
    fitted_bank,
    oriented_filters,
    style,
    styles_of,
    synthesised,
    texture_dictionary,
)
from qpatchbench.types import ImageSet

SIDE, EACH = 16, 12
HORIZONTAL, VERTICAL, BLOBS = 0, 1, 2


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def waves(seed: int, *, rows: float, columns: float) -> torch.Tensor:
    """(EACH, 3, SIDE, SIDE): grey waves of random phase."""
    phases = 2 * math.pi * torch.rand(EACH, 1, 1, generator=draws(seed))
    down, right = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    values = 0.5 + 0.4 * torch.sin(rows * down + columns * right + phases)
    return values.unsqueeze(1).expand(-1, 3, -1, -1)


def blobs(seed: int) -> torch.Tensor:
    """Random noise, smoothed."""
    noise = torch.rand(EACH, 3, SIDE + 6, SIDE + 6, generator=draws(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 7, stride=1)
    return (0.5 + 4 * (smooth - 0.5)).clamp(0, 1)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Class 0: horizontal stripes, class 1: vertical ones, class 2: blobs."""
    pixels = torch.cat([waves(1, rows=1.5, columns=0), waves(2, rows=0, columns=1.5), blobs(3)])
    return ImageSet(to_uint8(pixels), torch.arange(3).repeat_interleave(EACH), tuple(map(str, range(3 * EACH))))


@pytest.fixture(scope="module")
def bank(images: ImageSet) -> Bank:
    return fitted_bank(images)


def of_class(images: ImageSet, class_id: int) -> ImageSet:
    return images.chosen(images.labels == class_id)


def distances(found: torch.Tensor, centres: torch.Tensor, bank: Bank) -> torch.Tensor:
    """(T, C) between the styles of images and centres."""
    return torch.cdist(style(found, bank), centres)


def test_filters_sum_to_nothing_but_for_the_blur() -> None:
    filters = oriented_filters()
    sums = filters.sum(dim=(1, 2, 3))
    assert float(sums[0]) == pytest.approx(1, abs=1e-6)
    assert sums[1:].abs().max() < 1e-6
    assert torch.allclose(filters[0] + filters[1], torch.nn.functional.pad(torch.ones(1, 1, 1), (3,) * 4), atol=1e-6)


def test_a_derivative_answers_to_its_orientation_only() -> None:
    """First derivatives on a plane in direction a give its slope times cos(a - own direction), anywhere inside."""
    filters = oriented_filters()[2::2]
    along = torch.arange(9.0)
    moment = (filters[0, 0] * torch.arange(-3.0, 4.0)).sum()  # what a slope of 1 gives
    for step in range(4):
        angle = math.pi * step / 4
        plane = math.cos(angle) * along.view(1, -1) + math.sin(angle) * along.view(-1, 1)
        found = torch.nn.functional.conv2d(plane.view(1, 1, 9, 9), filters)[0, :, 1, 1] / moment
        expected = torch.tensor([math.cos(angle - math.pi * other / 4) for other in range(4)])
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_turned_image_has_the_filters_turned(bank: Bank) -> None:
    """Stripes by a quarter turn: the same Gram matrix, with the channels of the orientations exchanged."""
    plain = Bank(bank.filters, tuple(torch.ones_like(spread) for spread in bank.spreads))
    image = waves(5, rows=1.1, columns=0.3)[:1]
    one, other = style(image, plain), style(image.rot90(2, (2, 3)), plain)
    channels = 3 * (1 + 2 * 9) + 1
    assert one.shape == (1, 2 * channels**2)
    # Half a turn exchanges the two signs of first derivatives and leaves second ones, blur and constant alone.
    per_colour = torch.arange(19)
    order = per_colour.clone()
    odd = torch.arange(2, 10, 2)  # blur, rest+, then (first, second) derivatives of four orientations, then minus signs
    order[odd], order[odd + 9] = odd + 9, odd.clone()
    whole = torch.cat([order + 19 * colour for colour in range(3)] + [torch.tensor([57])])
    for index in range(2):
        part = slice(index * channels**2, (index + 1) * channels**2)
        gram, turned = one[0, part].view(channels, -1), other[0, part].view(channels, -1)
        assert torch.allclose(gram[whole][:, whole], turned, atol=1e-5)
        assert not torch.allclose(gram, turned, atol=1e-4)


def test_a_gram_matrix_holds_means_and_is_taken_over_pixels(bank: Bank) -> None:
    """A flat image: only blurs and the constant answer, and the matrix is their outer product at any size."""
    plain = Bank(bank.filters, tuple(torch.ones_like(spread) for spread in bank.spreads))
    colour = torch.tensor([0.2, 0.5, 0.9])
    expected = torch.zeros(58)
    expected[[0, 19, 38]], expected[57] = colour, 1
    for side in (5, 12):
        found = style(colour.view(1, 3, 1, 1).expand(1, 3, side, side), plain)
        assert torch.allclose(found, torch.outer(expected, expected).flatten().repeat(1, 2), atol=1e-5)


def test_every_response_has_a_mean_square_of_one(images: ImageSet, bank: Bank) -> None:
    for gram in styles_of(images, bank).mean(dim=0).view(2, 58, 58):
        assert torch.allclose(gram.diagonal(), torch.ones(58), atol=1e-4)


@pytest.mark.numerical
def test_parts_change_nothing(images: ImageSet, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = texture_dictionary(images, (0, 2), per_class=2, steps=3, generator=draws())
    monkeypatch.setattr(textures, "CHUNK", 5 * SIDE * SIDE)
    for one, other in zip(fitted_bank(images).spreads, bank.spreads, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert torch.allclose(styles_of(images, bank), torch.cat([style(to_float(images.pixels), bank)]), atol=1e-4)
    monkeypatch.setattr(textures, "CHUNK", 1)
    split = texture_dictionary(images, (0, 2), per_class=2, steps=3, generator=draws())
    assert torch.equal(split.classes, whole.classes)
    # Adam divides by the gradient: where that is hardly more than rounding, a pixel may go the other way.
    assert ((split.pixels - whole.pixels).abs() < 2 / 255).float().mean() > 0.98


def test_clusters_are_the_classes_that_were_mixed(images: ImageSet, bank: Bank) -> None:
    """Three kinds of images without labels: k-means on the styles finds them, whatever their phases."""
    own = styles_of(images, bank)
    found = clustered(own, 3, draws())
    kinds = images.labels[found.nearest]
    assert sorted(kinds.tolist()) == [0, 1, 2]
    for kind, centre in zip(kinds, found.centres, strict=True):
        assert torch.allclose(centre, own[images.labels == kind].mean(dim=0), atol=1e-4)


def test_clusters_depend_on_the_generator_only(images: ImageSet, bank: Bank) -> None:
    own = styles_of(of_class(images, BLOBS), bank)
    first, again = clustered(own, 4, draws(1)), clustered(own, 4, draws(1))
    assert torch.equal(first.centres, again.centres)
    assert torch.equal(first.nearest, again.nearest)
    others = [sorted(clustered(own, 6, draws(seed)).nearest.tolist()) for seed in range(8)]
    assert any(other != others[0] for other in others), "blobs have no clear clusters: starts must matter"


def test_there_are_no_more_clusters_than_styles(images: ImageSet, bank: Bank) -> None:
    own = styles_of(images, bank)[:2].repeat(5, 1)
    found = clustered(own, 7, draws())
    assert len(found.centres) == 2
    assert sorted(found.nearest.tolist()) == [0, 1]


@pytest.mark.numerical
def test_textures_come_close_to_their_centre(images: ImageSet, bank: Bank) -> None:
    """Closer than noise, than the images of other classes, and than the image that they started from."""
    for class_id in (HORIZONTAL, VERTICAL, BLOBS):
        found = clustered(styles_of(of_class(images, class_id), bank), 1, draws())
        start = to_float(of_class(images, class_id).pixels[found.nearest])
        own = synthesised(start, found.centres, bank, steps=60)
        reached = float(distances(own, found.centres, bank))
        assert reached < float(distances(start, found.centres, bank))
        others = images.chosen(images.labels != class_id)
        assert reached < 0.3 * float(distances(to_float(others.pixels), found.centres, bank).min())
        noise = torch.rand(8, 3, SIDE, SIDE, generator=draws(4))
        assert reached < 0.3 * float(distances(noise, found.centres, bank).min())


def test_a_texture_is_its_classs_and_no_others(images: ImageSet, bank: Bank) -> None:
    """Each is nearer to the centre of its own class than to any other, and than any other class's texture is."""
    dictionary = texture_dictionary(images, (0, 1, 2), per_class=1, steps=40, generator=draws())
    centres = torch.stack([styles_of(of_class(images, class_id), bank).mean(dim=0) for class_id in range(3)])
    table = distances(dictionary.pixels, centres, bank)
    assert torch.equal(table.argmin(dim=0), torch.arange(3))
    assert torch.equal(table.argmin(dim=1), torch.arange(3))


@pytest.mark.numerical
def test_noise_can_be_a_start_too(bank: Bank, images: ImageSet) -> None:
    centre = styles_of(of_class(images, VERTICAL), bank).mean(dim=0, keepdim=True)
    noise = torch.rand(1, 3, SIDE, SIDE, generator=draws(6))
    reached = synthesised(noise, centre, bank, steps=80)
    assert float(distances(reached, centre, bank)) < 0.3 * float(distances(noise, centre, bank))


def test_a_dictionary_is_on_the_8_bit_grid_and_reproducible(images: ImageSet) -> None:
    first, again = (texture_dictionary(images, (2, 0), per_class=3, steps=5, generator=draws(7)) for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
    assert first.classes.tolist() == [2, 2, 2, 0, 0, 0]
    assert first.pixels.shape == (6, 3, SIDE, SIDE)
    assert torch.equal(first.pixels, round_to_8_bit(first.pixels))
    assert not first.pixels.requires_grad
    assert len(torch.unique(first.pixels, dim=0)) == 6


def test_without_steps_textures_are_images(images: ImageSet) -> None:
    dictionary = texture_dictionary(images, (1,), per_class=2, steps=0, generator=draws())
    own = of_class(images, VERTICAL).pixels
    for texture in to_uint8(dictionary.pixels):
        assert any(torch.equal(texture, image) for image in own)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_tiny_images_do(side: int) -> None:
    pixels = torch.randint(0, 256, (6, 3, side, side), generator=draws(), dtype=torch.uint8)
    tiny = ImageSet(pixels, torch.zeros(6, dtype=torch.int64), ("",) * 6)
    found = texture_dictionary(tiny, (0,), per_class=2, steps=2, generator=draws()).pixels
    assert found.shape == (2, 3, side, side)
    assert torch.isfinite(found).all()


def test_black_images_do() -> None:
    """No response at all, which nothing may be divided by."""
    black = ImageSet(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), ("",) * 4)
    assert texture_dictionary(black, (0,), per_class=3, steps=3, generator=draws()).pixels.eq(0).all()


def test_a_class_without_images_is_an_error(images: ImageSet) -> None:
    with pytest.raises(AttackError, match="crafting images of class 5 .* found none among 36 images"):
        texture_dictionary(images, (0, 5), per_class=1, steps=0, generator=draws())
    with pytest.raises(AttackError, match="found none"):
        texture_dictionary(images[:0], (), per_class=1, steps=0, generator=draws())


def test_a_square_is_cut_out_as_by_slicing() -> None:
    pixels = torch.rand(3, 3, 7, 6, generator=draws())
    which, rows, columns = torch.tensor([2, 0, 0, 1]), torch.tensor([0, 4, 1, 2]), torch.tensor([3, 0, 2, 1])
    found = cut_out(pixels, which, rows, columns, 3)
    for index, (texture, row, column) in enumerate(zip(which, rows, columns, strict=True)):
        assert torch.equal(found[index], pixels[texture, :, row : row + 3, column : column + 3])
