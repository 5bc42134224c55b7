"""How much each layer multiplies, against formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qpatchbench.quantizers.inspection.audit_layers import operations


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (nn.Conv2d(3, 8, 3, padding=1, groups=1), 64 * 8 * 27),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 64 * 6 * 9),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), 64 * 3 * 5 * 4),
        (nn.Sequential(nn.Flatten(2), nn.Linear(64, 7)), 3 * 64 * 7),
    ],
)
def test_multiplications_are_those_of_the_formula(layer: nn.Module, count: int, images: torch.Tensor) -> None:
    (found,) = operations(layer.eval(), images)
    assert found.multiplications == count
    assert not found.declares


def test_attention_and_named_arguments_are_counted(images: torch.Tensor) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(64, 2, batch_first=True)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = images.flatten(2)
            result: torch.Tensor = self.attention(query=tokens, key=tokens, value=tokens, need_weights=False)[0]
            return result

    (found,) = operations(Attending().eval(), images)
    assert found.multiplications == 3 * 4 * 64 * 64, "three tokens; queries, keys, values and the output"
