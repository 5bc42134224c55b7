"""Local gradient smoothing, by hand and on a patch."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.preprocessors.lgs import Lgs, inside, normalised_gradient, rough_windows, starts


def smoothed(images: torch.Tensor, **fields: float) -> torch.Tensor:
    preprocessor = Lgs(name="lgs", **fields)
    return preprocessor.apply(images, preprocessor.fit(images), torch.Generator().manual_seed(0))


def one_bright_pixel(side: int = 7) -> torch.Tensor:
    """Half grey, and white at row 1, column 1."""
    image = torch.full((1, 3, side, side), 0.5)
    image[..., 1, 1] = 1
    return image


def test_the_gradient_of_one_bright_pixel() -> None:
    # Forward differences: -0.5 both ways at the pixel itself, 0.5 one way to its left and above it.
    root = 0.5**0.5
    expected = torch.zeros(7, 7)
    expected[1, 1], expected[1, 0], expected[0, 1] = 1, root, root
    torch.testing.assert_close(normalised_gradient(one_bright_pixel())[0, 0], expected, atol=1e-4, rtol=0)


def test_windows_by_hand() -> None:
    # Windows of 3 start at 0, 2 and 4. Only the first one has the pixel: its mean is (1 + 2 * 0.7071) / 9 = 0.268.
    found = smoothed(one_bright_pixel(), window=3, overlap=1, threshold=0.26, smoothing=0.5)[0, 0]
    expected = one_bright_pixel()[0, 0].clone()
    expected[1, 1] = 1 * (1 - 0.5)
    expected[1, 0] = expected[0, 1] = 0.5 * (1 - 0.5 * 0.5**0.5)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    unchanged = smoothed(one_bright_pixel(), window=3, overlap=1, threshold=0.27, smoothing=0.5)
    assert torch.equal(unchanged, one_bright_pixel())


def test_a_pixel_in_several_windows_is_rough_if_one_of_them_is() -> None:
    gradient = torch.zeros(1, 1, 7, 7)
    gradient[..., 0, 0] = 1
    rough = rough_windows(gradient, window=3, stride=2, threshold=0.1)[0, 0]
    assert rough[:3, :3].all()
    assert rough.sum() == 9, "row and column 2 belong to a smooth window as well"


def test_the_last_window_ends_at_the_border() -> None:
    assert starts(32, 5, 3) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert starts(224, 15, 10)[-2:] == [200, 209]
    assert starts(5, 5, 3) == [0]
    for length, window, stride in ((32, 5, 3), (224, 15, 10), (16, 5, 3), (5, 5, 1)):
        assert inside(starts(length, window, stride), window, length).any(dim=0).all()


def test_images_without_edges_are_left_alone() -> None:
    flat = torch.full((2, 3, 16, 16), 0.7)
    assert torch.equal(smoothed(flat), flat)
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    assert torch.allclose(smoothed(ramp), ramp, atol=1e-6)


def test_a_rough_patch_is_damped_and_its_smooth_background_untouched() -> None:
    image = torch.linspace(0.4, 0.6, 32).expand(1, 3, 32, 32).clone()
    draws = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(0))
    image[0, :, 12:18, 12:18] = (draws > 0.5).float()
    found = smoothed(image)
    assert float(found[0, :, 12:18, 12:18].mean()) < 0.4 * float(image[0, :, 12:18, 12:18].mean())
    far = torch.ones(32, 32, dtype=torch.bool)
    far[7:23, 7:23] = False  # a window that touches the patch reaches at most 4 pixels further
    assert torch.equal(found[..., far], image[..., far])


def test_the_result_lies_between_black_and_the_image() -> None:
    images = torch.rand(4, 3, 20, 17, generator=torch.Generator().manual_seed(1))
    found = smoothed(images)
    assert bool((found >= 0).all())
    assert bool((found <= images).all())
    assert torch.equal(smoothed(images, smoothing=0), images)


def test_every_image_is_treated_by_itself() -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    images[1] *= 0.1
    assert torch.equal(smoothed(images)[1:2], smoothed(images[1:2]))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an overlap below the window, 5, found 5"):
        Lgs(name="lgs", window=5, overlap=5)
    message = "lgs: expected images of at least one window, 5 pixels, found 4 x 8; set window to less"
    with pytest.raises(QPatchBenchError, match=message):
        smoothed(torch.zeros(1, 3, 4, 8))
