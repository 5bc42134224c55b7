"""Promises about the answers of deployed networks: with gradients, image by image, random only where declared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from qpatchbench.quantizers.base import Quantizer
from qpatchbench.quantizers.trained.switchable import set_bits
from qpatchbench.testing.fixtures.checkpoints import deployed, tried
from qpatchbench.testing.fixtures.networks_and_images import BITS, CLASSES, float_network, switchable_network
from qpatchbench.testing.require import DoesNotApplyError, fail, require
from qpatchbench.types import Network, Randomized

ROUNDING = 1e-4  # relative, of float32 sums in another order


def gradients_reach_the_image(quantizer: Quantizer, seed: int) -> None:
    """The gradient of the logits to the images is finite and non-zero at every width, as attacks need it."""
    on = tried(quantizer, seed)
    for bits in quantizer.bits:
        network = _expected(deployed(quantizer, on, bits))
        images = on.images.clone().requires_grad_()
        logits = network(images)
        through = f"a gradient to the images at {bits} bits; round with a straight-through estimator"
        require(logits.requires_grad, quantizer, through, "logits without a graph")
        (gradient,) = torch.autograd.grad(logits.square().sum(), images)
        fine = bool(gradient.isfinite().all()) and bool(gradient.abs().sum() > 0)
        require(fine, quantizer, through, "zero everywhere" if bool(gradient.isfinite().all()) else "NaN or infinity")


def batches_do_not_matter(quantizer: Quantizer, seed: int) -> None:
    """An image is answered alike alone and among others: no scale depends on the batch."""
    on = tried(quantizer, seed)
    # Images of different strength, which a shared scale would betray.
    images = on.images * torch.linspace(0.2, 1, len(on.images)).view(-1, 1, 1, 1)
    for bits in quantizer.bits:
        network = deployed(quantizer, on, bits)
        with torch.no_grad():
            _restart(network)
            together = network(images)
            _restart(network)
            alone = torch.cat([network(image) for image in torch.split(images, 1)])
        scale = float(together.abs().max())
        same = int(((together - alone).abs().amax(dim=1) <= ROUNDING * scale).sum())
        # Sums in another order may round one activation of an image to the next level.
        expected = f"the same logits alone as in a batch at {bits} bits; take scales per image or fix them"
        require(same >= 0.75 * len(images), quantizer, expected, f"{same} of {len(images)} images alike")


def randomness_is_declared(quantizer: Quantizer, seed: int) -> None:
    """`randomized` says whether a network draws; one that does has `expected` and `restart`, and follows the seed."""
    on = tried(quantizer, seed)
    networks = [deployed(quantizer, on, bits) for bits in quantizer.bits]
    if not quantizer.randomized:
        for network, bits in zip(networks, quantizer.bits, strict=True):
            with torch.no_grad():
                same = torch.equal(network(on.images), network(on.images))
            expected = f"the same logits when asked twice at {bits} bits, or randomized: ClassVar[bool] = True"
            require(same, quantizer, expected, "other logits")
        return
    differs = False
    for network in networks:
        if not isinstance(network, Randomized):
            fail(quantizer, "a network with `expected` and `restart(seed)`, as qpatchbench.types.Randomized", network)
        answers = []
        for start in (1, 1, 2, 3, 4):
            network.restart(start)
            with torch.no_grad():
                answers.append(network(on.images))
        require(torch.equal(*answers[:2]), quantizer, "the same draws after restart(seed)", "others")
        differs |= any(not torch.equal(answers[0], other) for other in answers[2:])
        with torch.no_grad():
            twice = [network.expected(on.images) for _ in range(2)]
        require(torch.equal(*twice), quantizer, "an `expected` network that draws nothing", "other logits")
    require(differs, quantizer, "other draws after another restart(seed), or randomized = False", "the same ones")


def second_derivatives_exist(quantizer: Quantizer, seed: int) -> None:
    """While its quantizers are trained, a penalty on the input gradient reaches every weight at every width."""
    network, images = _trainable(quantizer, seed)
    labels = torch.arange(len(images)) % CLASSES
    for bits in BITS:
        set_bits(network, bits)
        network.zero_grad()
        shown = images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(network(shown), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, shown, create_graph=True)
        torch.autograd.backward(gradient.square().sum())
        weights = {n: p for n, p in network.named_parameters() if n.endswith("weight") and p.dim() > 1}
        idle = [n for n, p in weights.items() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
        expected = f"a second derivative for every weight at {bits} bits; use a straight-through estimator that has one"
        require(not idle, quantizer, expected, f"none for {', '.join(idle)}")


def switching_back_restores_the_answers(quantizer: Quantizer, seed: int) -> None:
    """After another width has answered, a width answers as before, bit for bit: nothing leaks between them."""
    network, images = _trainable(quantizer, seed)
    network.eval()
    for bits, other in zip(BITS, BITS[1:] + BITS[:1], strict=True):
        answers = []
        for width in (bits, other, bits):
            set_bits(network, width)
            with torch.no_grad():
                answers.append(network(images))
        expected = f"the same logits at {bits} bits after {other} bits have answered"
        require(torch.equal(answers[0], answers[2]), quantizer, expected, "other logits")


def _trainable(quantizer: Quantizer, seed: int) -> tuple[nn.Module, torch.Tensor]:
    if not quantizer.trained:
        raise DoesNotApplyError("it trains no quantizers")
    network = switchable_network(float_network(seed), seed, BITS, quantizer)
    return network.train(), tried(quantizer, seed).images


def _expected(network: nn.Module) -> Network:
    return network.expected if isinstance(network, Randomized) else network


def _restart(network: nn.Module) -> None:
    if isinstance(network, Randomized):
        network.restart(0)


CHECKS: tuple[Callable[[Quantizer, int], str | None], ...] = (
    gradients_reach_the_image,
    batches_do_not_matter,
    randomness_is_declared,
    second_derivatives_exist,
    switching_back_restores_the_answers,
)
