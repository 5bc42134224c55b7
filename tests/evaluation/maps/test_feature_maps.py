"""Feature maps of the first convolutions: which ones, and what is kept of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qpatchbench.component import create
from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.maps.feature_maps import channel_means, first_convolutions
from qpatchbench.registry import MODELS


class Chain(nn.Module):
    """Four convolutions in a row; the third is added to what the second gives before the fourth reads it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
            self.c, self.d = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.b(torch.relu(self.a(images)))
        logits: torch.Tensor = self.d(torch.relu(hidden + self.c(hidden))).mean((2, 3))
        return logits


def images(side: int) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(2))


def test_the_first_three_of_a_network() -> None:
    network = create(MODELS, {"name": "resnet20"}).build(10, 16).eval()
    layers = first_convolutions(network, images(16))
    assert layers == ("backbone.conv1", "backbone.layer1.0.conv1", "backbone.layer1.0.conv2")


def test_outputs_that_are_read_as_one_count_once() -> None:
    layers = first_convolutions(Chain(), images(6))
    assert layers == ("a", "b", "c"), "b is read by c alone before it is added"
    network, pixels = Chain(), images(6)
    found = channel_means(network, layers, pixels)
    with torch.no_grad():
        first = torch.relu(network.a(pixels))
        hidden = network.b(first)
        last = torch.relu(hidden + network.c(hidden))
    for layer, expected in zip(layers, (first, hidden, last), strict=True):
        torch.testing.assert_close(found[layer], expected.mean(dim=1))


def test_a_gate_is_not_shown_beside_what_it_gates() -> None:
    network = create(MODELS, {"name": "timm/efficientnet_b0"}).build(10, 64).eval()
    layers = first_convolutions(network, images(64))
    assert layers == ("backbone.conv_stem", "backbone.blocks.0.0.conv_dw", "backbone.blocks.0.0.conv_pw")


def test_a_transformer_is_refused() -> None:
    network = create(MODELS, {"name": "timm/vit_tiny_patch16_224"}).build(10, 32)
    with pytest.raises(QPatchBenchError, match="found no feature maps in ImageClassifier: .*transformer hands on"):
        first_convolutions(network, images(32))
