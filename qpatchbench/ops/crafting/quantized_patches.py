"""Patches that are made inside quantized networks.

A-QAPA of QADT-R (Guesmi, Ouni, Shafique 2025, arXiv 2503.07058, section 3.3.1):

    x_adv = Q_b(x) * (1 - M) + Q_b(p) * M    (equation 1)

The equation quantizes the whole image, the sentence above it "only the adversarial region"; `part` says which. The
paper gives no loop: here one texture for the whole batch climbs the cross-entropy along the sign of its gradient, every
step at random bits and at random places.
"""  # noqa: D214 (a formula)

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch

from qpatchbench.errors import TrainingError
from qpatchbench.ops.patches.pasting import paste
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.quantization.fake_quantization import code_range, fake_quantize
from qpatchbench.types import FLOAT_BITS, Bits, Network, Placement

Part: TypeAlias = Literal["patch", "image", "nothing"]

# (gradient of the texture, bits of the step) -> what the step follows.
Direction: TypeAlias = Callable[["torch.Tensor", Bits], "torch.Tensor"]


def quantize_pixels(values: torch.Tensor, bits: Bits) -> torch.Tensor:
    """Q_b: values in [0, 1] -> the nearest of 2^b evenly spaced levels, 0 and 1 among them; the same object at 32.

    An image is the input of the first layer, so b is the activation width. The gradient passes straight through.
    """
    if bits.activation == FLOAT_BITS:
        return values
    qmin, qmax = code_range(bits.activation, signed=False)
    return fake_quantize(values, torch.full((), 1 / qmax, device=values.device), qmin, qmax)


def paste_quantized(
    images: torch.Tensor, texture: torch.Tensor, placement: Placement, bits: Bits, part: Part
) -> torch.Tensor:
    """Equation 1: images (B, 3, H, W) with one square texture (1, 3, h, w) on each; differentiable in the texture."""
    masks = torch.ones_like(texture[:, :1])
    if part == "image":
        return quantize_pixels(paste(images, texture, masks, placement), bits)
    return paste(images, quantize_pixels(texture, bits) if part == "patch" else texture, masks, placement)


class Ascent(NamedTuple):
    """How a texture is made.

    Attributes:
        side: of the square texture, pixels.
        steps: every one is taken; with 0 the texture is noise.
        step_size: change of a pixel per step.
        bits: widths, one of which is drawn for every step, each as likely as another.
        part: what is quantized at that width.
    """

    side: int
    steps: int
    step_size: float
    bits: tuple[Bits, ...]
    part: Part


def random_places(images: torch.Tensor, side: int, generator: torch.Generator) -> Placement:
    """One place per image, uniform, upright, on the device of the images.

    Raises:
        TrainingError: a square of that side does not fit.
    """
    height, width = images.shape[-2:]
    if side > min(height, width):
        raise TrainingError(
            f"expected a patch no larger than the training images of {height} x {width} pixels, found {side} x {side}; "
            "make its size smaller"
        )
    return sample_placement(len(images), (height, width), (side, side), generator).to(images.device)


def follow_gradient(gradient: torch.Tensor, bits: Bits) -> torch.Tensor:
    """The `Direction` of ordinary ascent."""
    return gradient


def ascended_texture(
    network: Callable[[Bits], Network],
    images: torch.Tensor,
    labels: torch.Tensor,
    ascent: Ascent,
    generator: torch.Generator,
    direction: Direction = follow_gradient,
) -> torch.Tensor:
    """Climb the mean cross-entropy of patched images: p <- clamp(p + step_size * sign(gradient), 0, 1).

    Args:
        network: the network at a width, in the mode that it shall be attacked in; its parameters get no gradient.
        images: (B, 3, H, W) float32 in [0, 1].
        labels: (B,) int64.
        ascent: steps, widths and size.
        generator: on the CPU: the start, uniform in [0, 1), and each step's width and places.
        direction: changes the gradient before its sign is taken.

    Returns:
        (1, 3, side, side) float32 in [0, 1], without a graph.

    Raises:
        TrainingError: the texture does not fit into the images.
    """
    texture = torch.rand(1, images.shape[1], ascent.side, ascent.side, generator=generator).to(images.device)
    for _ in range(ascent.steps):
        bits = ascent.bits[int(torch.randint(len(ascent.bits), (), generator=generator))]
        placement = random_places(images, ascent.side, generator)
        texture.requires_grad_()
        logits = network(bits)(paste_quantized(images, texture, placement, bits, ascent.part))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        (gradient,) = torch.autograd.grad(loss, texture)
        texture = (texture.detach() + ascent.step_size * direction(gradient, bits).sign()).clamp(0, 1)
    return texture
