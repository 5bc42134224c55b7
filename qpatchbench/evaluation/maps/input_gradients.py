"""Input gradients of a backbone's bit-widths on the same images, and how well they agree with the widest one's.

Figure 4 of QADT-R (Guesmi, Ouni, Shafique 2025, arXiv 2503.07058): gradients under a patch and under a pixel attack,
with cosine and mean squared error to those of the 32-bit network. The paper says neither how the pixel attack is run
nor on what; here PGD of 20 steps (8/255, steps of 2/255, from a random point) is made on the widest network and shown
to all, as the patch is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.maps.agreement import Agreement, Content, against_most_bits, agreement, blank_maps
from qpatchbench.evaluation.maps.similarity import INPUT_GRADIENT
from qpatchbench.ops.crafting.pixel_attacks import Descent, perturbed_images
from qpatchbench.ops.loss_gradient import LossGradient, loss_gradient
from qpatchbench.ops.maps.similarity import cosine, mean_squared_error
from qpatchbench.ops.patches.locating import upright
from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.types import Bits, CraftTask, ImageSet, Progress, Untargeted, silent

PGD = Descent(epsilon=8 / 255, step_size=2 / 255, steps=20, from_random=True)


def pgd_images(
    network: torch.nn.Module, images: ImageSet, generator: torch.Generator, progress: Progress = silent
) -> torch.Tensor:
    """The images as PGD perturbs them to be misclassified by `network`, (N, 3, H, W) float32, 8-bit values.

    Raises:
        AttackError: the network's output is not finite.
    """
    corner = torch.zeros(len(images), dtype=torch.int64, device=images.pixels.device)
    task = CraftTask(
        networks=(network,),
        goals=(Untargeted(),),
        crafting=images[:0],
        generator=generator,
        attacked=images,
        placement=upright(corner, corner),
        progress=progress,
    )
    return perturbed_images(task, PGD).textures


def input_gradients(
    network: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> LossGradient:
    """The gradient of each image's cross-entropy with its label.

    Args:
        network: one bit-width.
        pixels: (N, 3, H, W) float32 in [0, 1].
        labels: (N,) class ids.
        batch_size: changes no figure beyond rounding.

    Raises:
        QPatchBenchError: the logits are not finite.
    """
    parts = []
    with evaluating(network), torch.enable_grad():
        for images, sought in zip(torch.split(pixels, batch_size), torch.split(labels, batch_size), strict=True):
            own = images.detach().requires_grad_()
            logits = network(own)
            if not bool(torch.isfinite(logits).all()):
                raise QPatchBenchError("the network's logits are not finite: its gradients say nothing")
            parts.append(loss_gradient(logits, own, sought))
    return LossGradient(*(torch.cat(each) for each in zip(*parts, strict=True)))


def gradient_values(first: LossGradient, second: LossGradient) -> dict[str, torch.Tensor]:
    """Cosine and mean squared error of N pairs of gradients, (N,) each."""
    return {
        "cosine": cosine(first.direction, second.direction),
        "mse": mean_squared_error(first.gradient, second.gradient),
    }


def gradient_agreements(content: Content, gradients: Mapping[Bits, LossGradient]) -> Iterator[Agreement]:
    """Cosine and mean squared error of every narrower width's gradients to the widest one's."""
    directions = {bits: found.direction for bits, found in gradients.items()}
    for pair, direction in against_most_bits(directions):
        values, blank = gradient_values(gradients[pair[0]], gradients[pair[1]]), blank_maps(direction)
        # Independent directions are orthogonal on average, by symmetry.
        yield agreement(content, INPUT_GRADIENT, pair, "cosine", values["cosine"], 0.0, blank)
        yield agreement(content, INPUT_GRADIENT, pair, "mse", values["mse"], None, blank)
