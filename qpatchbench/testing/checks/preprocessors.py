"""Promises of every preprocessor, one function each: images in, images out, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.testing.fixtures.networks_and_images import images_of, seeded
from qpatchbench.testing.require import DoesNotApplyError, fail, no_global_draws, require, same_state

SIDE = 32
ROUNDING = 1e-5
State = Mapping[str, torch.Tensor]


def images_come_back(preprocessor: Preprocessor, seed: int) -> None:
    """Shape and dtype are kept, values are finite and in [0, 1]; also of black, of white and of a single image."""
    images, state = _ready(preprocessor, seed)
    cases = {
        "images": images,
        "one image": images[:1],
        "black images": torch.zeros_like(images),
        "white images": torch.ones_like(images),
    }
    for name, shown in cases.items():
        found = _applied(preprocessor, shown, state)
        require(found.shape == shown.shape, preprocessor, f"{name} of shape {tuple(shown.shape)}", tuple(found.shape))
        require(found.dtype == shown.dtype, preprocessor, f"{name} in {shown.dtype}", found.dtype)
        require(bool(found.isfinite().all()), preprocessor, f"finite {name}", "NaN or infinity; divide by max(x, eps)")
        low, high = float(found.min()), float(found.max())
        within = low >= 0 and high <= 1
        require(within, preprocessor, f"{name} in [0, 1]; clamp at the end", f"[{low:.4g}, {high:.4g}]")


def inputs_are_left_alone(preprocessor: Preprocessor, seed: int) -> None:
    """The images and the state that were given stay as they were."""
    images, state = _ready(preprocessor, seed)
    pixels, kept = images.clone(), {name: value.clone() for name, value in state.items()}
    _applied(preprocessor, images, state)
    require(torch.equal(images, pixels), preprocessor, "the images as they were; copy before writing", "others")
    touched = same_state(kept, dict(state))
    require(not touched, preprocessor, "the state as it was; `apply` learns nothing", f"another {touched}")


def the_state_is_tensors(preprocessor: Preprocessor, seed: int) -> None:
    """`fit` returns tensors by name, the same ones twice, and leaves the calibration images alone."""
    calibration = to_float(images_of(seed, 16, SIDE, role="calibration").pixels)
    before = calibration.clone()
    first, second = preprocessor.fit(calibration), preprocessor.fit(calibration)
    require(torch.equal(before, calibration), preprocessor, "calibration images as they were", "others")
    for name, value in first.items():
        require(isinstance(value, torch.Tensor), preprocessor, f"a tensor as state {name!r}", type(value).__name__)
    different = same_state(dict(first), dict(second))
    require(not different, preprocessor, "the same state from the same images", f"another {different}")


def no_global_generator_moves(preprocessor: Preprocessor, seed: int) -> None:
    """The global generators of torch, numpy and Python stay where they are."""
    calibration = to_float(images_of(seed, 16, SIDE, role="calibration").pixels)
    images, state = _ready(preprocessor, seed)
    with no_global_draws(preprocessor, "draw from `generator`"):
        preprocessor.fit(calibration)
        _applied(preprocessor, images, state)


def randomness_is_declared(preprocessor: Preprocessor, seed: int) -> None:
    """The generator alone decides: the same state the same bits; another one other bits only where `randomized`."""
    images, state = _ready(preprocessor, seed)
    first, again = (_applied(preprocessor, images, state, 1) for _ in range(2))
    same = torch.equal(first, again)
    require(same, preprocessor, "the same images from the same generator; draw from `generator` only", "others")
    others = [_applied(preprocessor, images, state, draw) for draw in (2, 3, 4)]
    differs = any(not torch.equal(first, other) for other in others)
    if preprocessor.randomized:
        expected = "other images from another generator, or randomized: ClassVar[bool] = False"
        require(differs, preprocessor, expected, "the same from four seeds")
        return
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    preprocessor.apply(images, state, generator)
    quiet = torch.equal(before, generator.get_state()) and not differs
    expected = "a generator that is not drawn from, or randomized: ClassVar[bool] = True"
    require(quiet, preprocessor, expected, "other images from another seed" if differs else "draws from it")


def batches_do_not_matter(preprocessor: Preprocessor, seed: int) -> None:
    """An image is treated alike alone and among others."""
    if preprocessor.randomized:
        raise DoesNotApplyError("it is randomised: alone, an image meets other draws")
    images, state = _ready(preprocessor, seed)
    # Images of different strength, which statistics of a batch would betray.
    images = images * torch.linspace(0.2, 1, len(images)).view(-1, 1, 1, 1)
    together = _applied(preprocessor, images, state)
    alone = torch.cat([_applied(preprocessor, image, state) for image in torch.split(images, 1)])
    worst = float((together - alone).abs().max())
    expected = "the same image alone as in a batch; take statistics per image, over dimensions 1 to 3"
    require(worst <= ROUNDING, preprocessor, expected, f"pixels that differ by up to {worst:.3g}")


def its_gradient_is_useful(preprocessor: Preprocessor, seed: int) -> None:
    """Where it says `differentiable`, its gradient to the images is finite and not zero."""
    if not preprocessor.differentiable:
        raise DoesNotApplyError("it is not `differentiable`: attacks follow the gradient of the identity instead")
    images, state = _ready(preprocessor, seed)
    shown = images.clone().requires_grad_()
    found = preprocessor.apply(shown, state, torch.Generator().manual_seed(1))
    expected = "a finite gradient to the images that is not zero, or differentiable: ClassVar[bool] = False"
    require(found.requires_grad, preprocessor, expected, "images without a graph")
    weights = torch.rand(found.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((found * weights).sum(), shown, allow_unused=True)
    require(gradient is not None, preprocessor, expected, "none")
    require(bool(gradient.isfinite().all()), preprocessor, expected, "NaN or infinity")
    require(bool(gradient.abs().sum() > 0), preprocessor, expected, "zero everywhere")


def double_precision_works(preprocessor: Preprocessor, seed: int) -> None:
    """The dtype of the images is followed: float64 in, float64 out, with about the same values."""
    images, state = _ready(preprocessor, seed)
    wide = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
    try:
        found = _applied(preprocessor, images.double(), wide)
    except RuntimeError as error:
        fail(preprocessor, "tensors made like the images: images.new_zeros(..), .to(images)", error)
    require(found.dtype == torch.float64, preprocessor, "float64 images from float64 images", found.dtype)


def certificates_hold(preprocessor: Preprocessor, seed: int) -> None:
    """No patch of the certified size turns a certified image: tried with the colours that decide, in many places.

    The network tells more red from more blue, and the images are so even that one patch turns the bare network.
    """
    side = preprocessor.certified_side(SIDE)
    if side is None:
        raise DoesNotApplyError("it certifies nothing")
    calibration = torch.full((16, 3, SIDE, SIDE), 0.5)
    state = preprocessor.fit(calibration)
    share = (side / SIDE) ** 2
    labels = torch.tensor([0, 1])
    images = torch.full((2, 3, SIDE, SIDE), 0.5)
    images[0, 0] += share / 4
    images[1, 2] += share / 4
    certified = preprocessor.certified(red_or_blue, images, labels, state)
    fits = certified.shape == (2,) and certified.dtype == torch.bool
    require(fits, preprocessor, "one bool for each of 2 images", f"{tuple(certified.shape)} in {certified.dtype}")
    places = sorted({*range(0, SIDE - side + 1, max(1, side // 2)), SIDE - side})
    for row in places:
        for column in places:
            shown = images.clone()
            for image, other in ((0, 2), (1, 0)):
                shown[image, :, row : row + side, column : column + side] = torch.eye(3)[other].view(3, 1, 1)
            seen = preprocessor.apply(shown, state, torch.Generator().manual_seed(seed))
            turned = certified & (preprocessor.answer(red_or_blue, seen, state).argmax(dim=1) != labels)
            expected = f"no patch of {side} x {side} pixels that turns a certified image"
            found = f"one at row {row}, column {column}; certify what the answer is under every such patch"
            require(not bool(turned.any()), preprocessor, expected, found)


def red_or_blue(images: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) -> logits (B, 2): mean red, mean blue."""
    return images.mean(dim=(2, 3))[:, [0, 2]]


def its_time_is_reported(preprocessor: Preprocessor, seed: int) -> str:
    """How long an image takes, relative to a forward pass of a ResNet-20; no limit."""
    from qpatchbench.models.cifar import CifarModel

    images, state = _ready(preprocessor, seed)
    network = seeded(lambda: CifarModel(name="resnet20").build(10, SIDE), seed).eval()
    with torch.no_grad():
        forward = _seconds(lambda: network(images))
        own = _seconds(lambda: _applied(preprocessor, images, state))
    return f"{1000 * own / len(images):.2g} ms per image, {own / forward:.2g} forward passes of a ResNet-20"


def _ready(preprocessor: Preprocessor, seed: int) -> tuple[torch.Tensor, State]:
    """Images (8, 3, 32, 32) in [0, 1], and what `fit` returns."""
    calibration = to_float(images_of(seed, 16, SIDE, role="calibration").pixels)
    return to_float(images_of(seed, 8, SIDE).pixels), preprocessor.fit(calibration)


def _applied(preprocessor: Preprocessor, images: torch.Tensor, state: State, draw: int = 1) -> torch.Tensor:
    return preprocessor.apply(images, state, torch.Generator().manual_seed(draw))


def _seconds(work: Callable[[], object]) -> float:
    """The shorter of two runs."""
    spent = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return min(spent)


CHECKS: tuple[Callable[[Preprocessor, int], str | None], ...] = (
    images_come_back,
    inputs_are_left_alone,
    the_state_is_tensors,
    no_global_generator_moves,
    randomness_is_declared,
    batches_do_not_matter,
    its_gradient_is_useful,
    double_precision_works,
    certificates_hold,
    its_time_is_reported,
)
