"""A U-Net that tells of every pixel whether it belongs to a patch (Liu et al. 2022, CVPR, arXiv 2112.04532).

It is trained on images of which a share of 0.3 is clean and the others have a square of saturated noise each. In self
adversarial training the squares are moved, by steps along the sign of the gradient, to where the network misses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

BATCH, CLEAN, CLIP = 32, 0.3, 0.1
SMALLEST, LARGEST = 0.05, 0.4  # sides of squares, as shares of the image's
LEVELS = 3  # at which resolution is halved
_MULTIPLE = 2**LEVELS


@dataclass(frozen=True)
class SegmenterTraining:
    """How a segmenter is trained.

    Attributes:
        channels: of the first level; each further one has twice as many.
        steps: of Adam, in batches of 32.
        adversarial: share of them, the last ones, that are self adversarial.
        attack_steps, attack_step_size: of the attack in each of those; pixels are in [0, 1].
        learning_rate: of Adam.
    """

    channels: int
    steps: int
    adversarial: float
    attack_steps: int
    attack_step_size: float
    learning_rate: float


class _Twice(nn.Sequential):
    """Convolution, BatchNorm and ReLU, twice."""

    def __init__(self, read: int, made: int) -> None:
        layers: list[nn.Module] = []
        for before in (read, made):
            layers += [nn.Conv2d(before, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
        super().__init__(*layers)


class _UNet(nn.Module):
    """(B, 3, H, W) with sides that are multiples of 8 -> logits (B, 1, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(LEVELS + 1)]
        self.first = _Twice(3, channels)
        self.down = nn.ModuleList(_Twice(wide, wider) for wide, wider in pairwise(widths))
        self.up = nn.ModuleList(_Twice(wider + wide, wide) for wide, wider in reversed([*pairwise(widths)]))
        self.last = nn.Conv2d(channels, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        levels = [self.first(images)]
        for block in self.down:
            levels.append(block(functional.max_pool2d(levels[-1], 2)))
        found = levels.pop()
        for block in self.up:
            larger = functional.interpolate(found, scale_factor=2.0, mode="bilinear")
            found = block(torch.cat([levels.pop(), larger], dim=1))
        logits: torch.Tensor = self.last(found)
        return logits


def segmenter_trained_on(
    images: torch.Tensor, training: SegmenterTraining, seed: int = 0
) -> Mapping[str, torch.Tensor]:
    """Weights of a segmenter by name.

    Args:
        images: (N, 3, H, W) float32 in [0, 1], square, without patches.
        training: how long, and against what.
        seed: of all draws.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)  # first weights are drawn from the global generator
        network = _UNet(training.channels).to(images.device)
        optimizer = torch.optim.Adam(network.parameters(), training.learning_rate)
        for step in range(training.steps):
            drawn = images[torch.randint(len(images), (BATCH,), generator=generator).to(images.device)]
            masks = square_masks(len(drawn), drawn.shape[-1], generator).to(drawn)
            shown = torch.where(masks > 0, saturated_noise(drawn, generator), drawn)
            if step >= (1 - training.adversarial) * training.steps:
                shown = _hidden_from(network, shown, masks, training)
            loss = functional.binary_cross_entropy_with_logits(network(_padded(shown)), _padded(masks))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            nn.utils.clip_grad_value_(network.parameters(), CLIP)
            optimizer.step()
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def patch_logits(images: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Images (B, 3, H, W) -> (B, H, W), above 0 where a pixel is taken for one of a patch; it has a gradient.

    Args:
        images: square, in [0, 1].
        weights: of `segmenter_trained_on`.
    """
    network = _without_weights(len(weights["last.weight"][0]))
    own = {name: value.to(images) if value.is_floating_point() else value for name, value in weights.items()}
    logits: torch.Tensor = torch.func.functional_call(network, own, (_padded(images),))
    return logits[:, 0, : images.shape[-2], : images.shape[-1]]


def square_masks(count: int, side: int, generator: torch.Generator, clean: float = CLEAN) -> torch.Tensor:
    """One square each at a uniform place, of a side from 0.05 to 0.4 of the image's: (count, 1, side, side) in {0, 1}.

    Args:
        count: how many.
        side: of the images, pixels.
        generator: of sides and places.
        clean: the share that has none.
    """
    draws = torch.rand(4, count, generator=generator)
    smallest, largest = max(2, round(SMALLEST * side)), max(2, round(LARGEST * side))
    sides = smallest + (draws[0] * (largest - smallest + 1)).long()
    sides[draws[3] < clean] = 0
    pixels = torch.arange(side)
    tops, lefts = ((draws[axis] * (side - sides + 1)).long()[:, None] for axis in (1, 2))
    rows, columns = ((pixels >= start) & (pixels < start + sides[:, None]) for start in (tops, lefts))
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def saturated_noise(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Uniform noise of contrast 1 to 4 about a grey from 0.2 to 0.8, clipped to [0, 1]; in the images' shape."""
    draws = torch.rand(images.shape, generator=generator)
    contrast = 1 + 3 * torch.rand(len(images), 1, 1, 1, generator=generator)
    grey = 0.2 + 0.6 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (grey + contrast * (draws - 0.5)).clamp(0, 1).to(images)


def _hidden_from(
    network: nn.Module, shown: torch.Tensor, masks: torch.Tensor, training: SegmenterTraining
) -> torch.Tensor:
    """The images with squares that the network, as it would be used, finds less of."""
    network.eval().requires_grad_(False)
    for _ in range(training.attack_steps):
        own = shown.detach().requires_grad_()
        loss = functional.binary_cross_entropy_with_logits(network(_padded(own)), _padded(masks))
        (gradient,) = torch.autograd.grad(loss, own)
        shown = (own + training.attack_step_size * gradient.sign() * masks).clamp(0, 1).detach()
    network.train().requires_grad_(True)
    return shown


def _padded(images: torch.Tensor) -> torch.Tensor:
    """The same with zeros below and to the right, so that every side is a multiple of 8."""
    missing = [-side % _MULTIPLE for side in (images.shape[-1], images.shape[-2])]
    padded: torch.Tensor = functional.pad(images, (0, missing[0], 0, missing[1]))
    return padded


@lru_cache(maxsize=2)
def _without_weights(channels: int) -> nn.Module:
    with torch.device("meta"):
        return _UNet(channels).eval().requires_grad_(False)
