"""Promises of every model source, one function each.

Large networks take as long as they take.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.models.base import ModelSource
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.testing.fixtures.networks_and_images import CLASSES, seeded
from qpatchbench.testing.fixtures.once import once
from qpatchbench.testing.require import DoesNotApplyError, fail, require, same_state

SMALL_SIDE, LARGE_SIDE = 32, 224


def the_preprocessing_is_sound(model: ModelSource, seed: int) -> str:
    """A size, a crop fraction in (0, 1], a known interpolation, and a mean and a deviation for three channels."""
    wanted = model.preprocessing(_side(model))
    require(wanted.image_size > 0, model, "image_size above 0", wanted.image_size)
    require(0 < wanted.crop_fraction <= 1, model, "crop_fraction in (0, 1]", wanted.crop_fraction)
    known = wanted.interpolation in ("bilinear", "bicubic")
    require(known, model, "interpolation bilinear or bicubic", wanted.interpolation)
    triple = len(wanted.mean) == len(wanted.std) == 3
    require(triple, model, "mean and std of three channels", f"{wanted.mean}, {wanted.std}")
    scaled = all(0 <= value <= 1 for value in wanted.mean) and all(0 < value <= 1 for value in wanted.std)
    require(scaled, model, "mean and std for pixels in [0, 1], not 0..255", f"{wanted.mean}, {wanted.std}")
    return f"tried at {wanted.image_size} pixels"


def it_answers_logits(model: ModelSource, seed: int) -> None:
    """Images (B, 3, H, W) in [0, 1] give finite float32 logits (B, K), each image for itself; no probabilities."""
    network, images = _built(model, seed).eval(), _images(model, seed, 3)
    with torch.no_grad():
        logits = network(images)
        alone = network(images[:1])
    shape = (len(images), CLASSES)
    require(tuple(logits.shape) == shape, model, f"logits {shape}", tuple(logits.shape))
    require(logits.dtype == torch.float32, model, "float32 logits", logits.dtype)
    require(bool(logits.isfinite().all()), model, "finite logits", "NaN or infinity")
    sums = logits.double().exp().sum(dim=1) if bool((logits <= 0).all()) else logits.double().sum(dim=1)
    squashed = bool(((logits >= 0).all() | (logits <= 0).all()) & ((sums - 1).abs() < 1e-4).all())
    expected = "logits, as the last linear layer gives them; leave out the softmax"
    require(not squashed, model, expected, "probabilities or their logarithms")
    scale = float(logits.abs().max())
    same = float((alone - logits[:1]).abs().max()) <= 1e-3 * max(scale, 1e-3)
    require(same, model, "the same logits of an image alone and in a batch, in eval mode", "others")


def mean_and_deviation_are_inside(model: ModelSource, seed: int) -> None:
    """The network normalises its images itself: an image of the mean colour reaches the first layer as zeros."""
    network, wanted = _built(model, seed).eval(), model.preprocessing(_side(model))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (wanted.mean, wanted.std))
    plain = torch.ones(1, 3, wanted.image_size, wanted.image_size)
    expected = f"images normalised inside the network by mean {wanted.mean} and std {wanted.std}; use ImageClassifier"
    for value, images in ((0.0, mean * plain), (1.0, (mean + std) * plain)):
        entering = _first_input(network, images)
        if entering is None:
            fail(model, "a convolution or linear layer that the images reach", "none")
        found = entering[entering != 0] if value else entering  # zeros may be padding
        near = found.numel() > 0 and bool((found - value).abs().max() < 1e-3)
        at = f"{float(entering.min()):.3g}..{float(entering.max()):.3g} at the first layer, not {value:g}"
        require(near, model, expected, at)


def modes_and_gradients_work(model: ModelSource, seed: int) -> None:
    """It is built in training mode, learns with every parameter, and gives a gradient to the images."""
    network, images = _built(model, seed), _images(model, seed, 4).requires_grad_()
    require(network.training, model, "a network in training mode; do not call eval() in build", "eval mode")
    with torch.random.fork_rng(devices=[]):  # of dropout
        torch.manual_seed(seed)
        loss = nn.functional.cross_entropy(network(images), torch.arange(4) % CLASSES)
    torch.autograd.backward(loss)
    idle = [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None]
    require(not idle, model, "a gradient for every parameter that learns", f"none for {', '.join(idle[:3])}")
    frozen = [name for name, value in network.named_parameters() if not value.requires_grad]
    require(not frozen, model, "parameters that learn; the harness freezes them", f"frozen: {', '.join(frozen[:3])}")
    assert images.grad is not None, "asked for above"
    fine = bool(images.grad.isfinite().all()) and bool(images.grad.abs().sum() > 0)
    require(fine, model, "a finite gradient to the images that is not zero", "none")
    network.eval()
    with torch.no_grad():
        same = torch.equal(network(images), network(images))
    require(same, model, "the same logits twice in eval mode", "others")


def the_seed_decides_the_weights(model: ModelSource, seed: int) -> None:
    """Initial weights follow from torch's global generator, which the caller seeds; nothing reseeds it."""
    first, again, other = (dict(_built(model, each).state_dict()) for each in (seed, seed, seed + 1))
    different = same_state(first, again)
    require(not different, model, "the same initial weights from the same seed", f"another {different}")
    expected = "other initial weights from another seed; do not call torch.manual_seed in build"
    require(bool(same_state(first, other)), model, expected, "the same")


def its_state_round_trips(model: ModelSource, seed: int) -> None:
    """Another network that is given its state dict answers the same, bit for bit."""
    network, other, images = _built(model, seed), _built(model, seed + 1), _images(model, seed, 2)
    names = set(network.state_dict()) ^ set(other.state_dict())
    require(not names, model, "the same names in every state dict", sorted(names)[:3])
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        same = torch.equal(network.eval()(images), other.eval()(images))
    require(same, model, "all that decides the answers in the state dict; register buffers", "other logits")


def _built(model: ModelSource, seed: int) -> nn.Module:
    if model.ready is not None:
        raise DoesNotApplyError("it is what its file is, which nothing trains and which has no gradient")
    return seeded(lambda: model.build(CLASSES, _side(model)), seed)


def _images(model: ModelSource, seed: int, count: int) -> torch.Tensor:
    side = _side(model)
    return torch.rand(count, 3, side, side, generator=derive_generator(seed, "images"))


def _side(model: ModelSource) -> int:
    """The size that the model's backbone expects for small images, or for large ones where it refuses small ones."""
    return once("side", model, lambda: _side_of(model))


def _side_of(model: ModelSource) -> int:
    small = model.preprocessing(SMALL_SIDE).image_size
    try:
        seeded(lambda: model.build(CLASSES, small), 0)
    except QPatchBenchError:
        return model.preprocessing(LARGE_SIDE).image_size
    return small


@torch.no_grad()
def _first_input(network: nn.Module, images: torch.Tensor) -> torch.Tensor | None:
    """What reaches the first convolution or linear layer that runs."""
    seen: list[torch.Tensor] = []

    def look(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if not seen:
            seen.append(arguments[0].clone())

    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen else None


CHECKS: tuple[Callable[[ModelSource, int], str | None], ...] = (
    the_preprocessing_is_sound,
    it_answers_logits,
    mean_and_deviation_are_inside,
    modes_and_gradients_work,
    the_seed_decides_the_weights,
    its_state_round_trips,
)
