from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from qpatchbench.quantizers.trained.switchable import initialize, prepare
from qpatchbench.types import Bits

Build = Callable[[], nn.Module]


class ToyNet(nn.Module):
    """Stem, a residual block, pooling and a linear layer; BatchNorm with statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.uniform_(part.bias, -0.3, 0.3)
        for _ in range(50):  # until the running statistics are those of images
            self(torch.rand(12, 3, 10, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.stem(images)
        features = torch.relu(self.norm(self.conv(features)) + features)
        logits: torch.Tensor = self.head(features.mean((2, 3)))
        return logits


@pytest.fixture
def build() -> Build:
    def made() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return ToyNet()

    return made


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(12, 3, 10, 10, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def switchable(build: Build, images: torch.Tensor) -> Callable[..., nn.Module]:
    """Makes an initialised switchable toy network in eval mode."""
    from qpatchbench.quantizers.qat import Qat

    def made(*widths: object, **fields: object) -> nn.Module:
        bits = tuple(Bits.parse(width) for width in widths)
        module = build()
        prepare(module, bits, Qat.model_validate({"name": "qat", "bits": bits, **fields}))
        initialize(module, images)
        return module.eval()

    return made
