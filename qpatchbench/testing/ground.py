"""What components are tried on: networks of a few thousand multiplications, and images whose classes can be learnt.

Everything follows from a seed, and no check shares a network with another: a component that breaks its network breaks
it for one check only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import nn

from qpatchbench.ops.pasting import to_float, to_uint8
from qpatchbench.ops.randomness import derive_generator, derive_seed
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.switchable import initialize, prepare, set_bits
from qpatchbench.types import FLOAT, Bits, ImageSet

CLASSES = 4
SIDE = 12
WIDTHS = (FLOAT, Bits.parse(8), Bits.parse(4), Bits.parse(2))
TRAINING_STEPS = 15
LOGIT_SPREAD = 1.0


class Ground(NamedTuple):
    """A network, and images that it takes."""

    network: nn.Module
    images: ImageSet


class TinyNet(nn.Module):
    """Three convolutions, two with BatchNorm, and a linear layer; (B, 3, 12, 12) in [0, 1] -> (B, 4).

    Args:
        dropout: share of the features that training mode drops.
    """

    early_layers = ("stem", "body")

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.body_norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8 * (SIDE // 2) ** 2, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        features = torch.relu(self.stem_norm(self.stem(images)))
        features = torch.relu(self.last(self.drop(torch.relu(self.body_norm(self.body(features))))))
        logits: torch.Tensor = self.head(features.flatten(1))
        return logits


def images_of(seed: int, count: int, side: int = SIDE, role: str = "images") -> ImageSet:
    """Smooth patterns, one per class, under noise; labels 0, 1, 2, 3, 0, ..; another `role` gives other noise."""
    patterns = torch.rand(CLASSES, 3, 4, 4, generator=derive_generator(seed, "patterns"))
    smooth = nn.functional.interpolate(patterns, size=(side, side), mode="bilinear")
    labels = torch.arange(count) % CLASSES
    noise = torch.randn(count, 3, side, side, generator=derive_generator(seed, role))
    ids = tuple(f"{role}/{index:04d}" for index in range(count))
    return ImageSet(to_uint8(smooth[labels] + 0.2 * noise), labels, ids)


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A fresh network whose initial weights follow from the seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return build()


def float_network(seed: int, dropout: float = 0.0) -> nn.Module:
    """A `TinyNet` that has learnt a little; in eval mode."""
    network = seeded(lambda: TinyNet(dropout), seed)
    network.load_state_dict(_learnt(seed))
    return network.eval()


@functools.cache
def _learnt(seed: int) -> Mapping[str, torch.Tensor]:
    network, images = seeded(TinyNet, seed), images_of(seed, 96, role="learnt from")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(TRAINING_STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(to_float(images.pixels)), images.labels)
        torch.autograd.backward(loss)
        optimizer.step()
    network.eval()
    with torch.no_grad():
        # Softmaxes that are not saturated, so that what a patch does can be seen.
        strength = LOGIT_SPREAD / float(network(to_float(images.pixels)).std())
        network.head.weight *= strength  # type: ignore[union-attr, operator]  # of a TinyNet
        network.head.bias *= strength  # type: ignore[union-attr, operator]
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def switchable_network(network: nn.Module, seed: int, bits: tuple[Bits, ...], quantizer: object) -> nn.Module:
    """The network with trained quantizers at `bits`, as the training loop prepares it, in place."""
    prepare(network, bits, quantizer)
    initialize(network, to_float(images_of(seed, 32, role="calibration").pixels))
    return network


def quantized_ground(seed: int, count: int = 16) -> Ground:
    """An 8-bit network with all that crafting could disturb: quantizers, BatchNorm, dropout, parameters that learn."""
    bits = (Bits.parse(8), Bits.parse(4))
    network = switchable_network(float_network(seed, dropout=0.5), seed, bits, Qat(name="qat", bits=bits))
    set_bits(network, bits[0])
    return Ground(network.eval(), images_of(seed, count))


def token_ground(seed: int, count: int = 16) -> Ground:
    """A vision transformer of 4 x 4 tokens of 4 x 4 pixels, with dropout and fused attention."""
    import timm

    from qpatchbench.models.classifier import ImageClassifier

    def build() -> nn.Module:
        made: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=4, num_heads=3, num_classes=CLASSES,
            drop_rate=0.5, init_values=1.0,
        )  # fmt: skip
        return made

    network = ImageClassifier(seeded(build, seed), (0.5,) * 3, (0.25,) * 3, 16)
    return Ground(network.eval(), images_of(seed, count, 16))
