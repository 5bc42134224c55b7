"""Cheap preprocessors against independent implementations: Pillow, scipy and hand calculations."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.patches.pasting import to_float, to_uint8
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.preprocessors.bit_depth import BitDepth
from qpatchbench.preprocessors.jpeg import Jpeg
from qpatchbench.preprocessors.preprocessed import preprocessed
from qpatchbench.preprocessors.smoothing import Smoothing


def images(count: int = 3, side: int = 12, seed: int = 0) -> torch.Tensor:
    draws = torch.rand(count, 3, side, side + 3, generator=torch.Generator().manual_seed(seed))
    return to_float(to_uint8(draws))


def applied(preprocessor: Preprocessor, shown: torch.Tensor) -> torch.Tensor:
    return preprocessor.apply(shown, {}, torch.Generator())


@pytest.mark.parametrize("window", [2, 3, 4, 5])
def test_medians_are_those_of_scipy(window: int) -> None:
    shown = images()
    expected = ndimage.median_filter(shown.numpy(), size=(1, 1, window, window), mode="reflect")
    assert np.array_equal(applied(Smoothing(name="smoothing", window=window), shown).numpy(), expected)


def test_a_lone_pixel_is_smoothed_away_and_gets_no_gradient() -> None:
    shown = torch.zeros(1, 3, 9, 9)
    shown[..., 4, 4] = 1
    shown.requires_grad_()
    found = applied(Smoothing(name="smoothing", window=3), shown)
    assert not found.any()
    (gradient,) = torch.autograd.grad(found.sum(), shown)
    assert gradient[..., 4, 4].abs().sum() == 0
    assert gradient.sum() == found.numel(), "each median is one pixel"


def test_a_window_larger_than_the_image_is_refused() -> None:
    with pytest.raises(QPatchBenchError, match="smoothing: expected images of at least one window, 5 pixels, found 4"):
        applied(Smoothing(name="smoothing", window=5), torch.zeros(1, 3, 4, 8))


def test_bit_depth_by_hand() -> None:
    shown = torch.tensor([0.0, 0.16, 0.17, 0.49, 0.51, 0.84, 1.0]).view(1, 1, 1, -1).expand(1, 3, 2, -1)
    found = applied(BitDepth(name="bit_depth", depth=2), shown)[0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([0, 0, 1, 1, 2, 3, 3]) / 3)
    assert torch.equal(applied(BitDepth(name="bit_depth", depth=8), images()), images()), "8 bits are all there are"


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_bit_depth_has_its_levels_and_no_more_error_than_half_a_step(depth: int) -> None:
    found = applied(BitDepth(name="bit_depth", depth=depth), images(8))
    assert len(set(found.flatten().tolist())) <= 2**depth
    assert float((found - images(8)).abs().max()) <= 0.5 / (2**depth - 1) + 1e-6
    assert torch.equal(applied(BitDepth(name="bit_depth", depth=depth), found), found)


def test_jpeg_is_what_pillow_reads_back() -> None:
    shown = images(1, 16)
    file = io.BytesIO()
    Image.fromarray(to_uint8(shown)[0].permute(1, 2, 0).numpy()).save(file, format="JPEG", quality=40)
    found = applied(Jpeg(name="jpeg", quality=40), shown)
    assert np.array_equal(to_uint8(found)[0].permute(1, 2, 0).numpy(), np.asarray(Image.open(file)))


def test_jpeg_keeps_flat_images_and_loses_more_of_rough_ones_at_lower_quality() -> None:
    flat = torch.full((1, 3, 16, 16), 128 / 255)
    assert torch.equal(applied(Jpeg(name="jpeg"), flat), flat)
    errors = [float((applied(Jpeg(name="jpeg", quality=q), images()) - images()).square().mean()) for q in (10, 50, 95)]
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize("preprocessor", [Jpeg(name="jpeg"), BitDepth(name="bit_depth")])
def test_attacks_follow_the_identity_where_there_is_no_gradient(preprocessor: Preprocessor) -> None:
    network = preprocessed(torch.nn.Flatten(), preprocessor, {})
    shown = images().requires_grad_()
    (gradient,) = torch.autograd.grad(network(shown).sum(), shown)
    assert torch.equal(gradient, torch.ones_like(shown))
