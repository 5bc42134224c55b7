"""Attention products and residual additions: what is quantized under `scope: full`, and what stays float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.calibrated.float_operands import FullyQuantized, float_operations
from qpatchbench.quantizers.frozen.attention_biases import call_projections
from qpatchbench.quantizers.inspection.audit_layers import audit
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.types import FLOAT, Bits

Build = Callable[[], nn.Module]
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIZES: dict[str, Any] = {"img_size": 32, "num_classes": 10}


def vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    # An untrained class token is a millionth of the other tokens, so that any step common to all would erase it.
    pooled: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
    network: nn.Module = VisionTransformer(patch_size=8, embed_dim=24, depth=2, num_heads=2, **pooled, **SIZES)
    return network


def swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    wide: dict[str, Any] = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4, "patch_size": 2}
    network: nn.Module = SwinTransformer(**wide, **SIZES)
    return network


def swin_v2() -> nn.Module:
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    wide: dict[str, Any] = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4, "patch_size": 2}
    network: nn.Module = SwinTransformerV2(**wide, **SIZES)
    return network


def beit() -> nn.Module:
    from timm.models.beit import Beit

    network: nn.Module = Beit(patch_size=8, embed_dim=24, depth=2, num_heads=2, qkv_bias=True, **SIZES)
    return network


def eva() -> nn.Module:
    from timm.models.eva import Eva

    network: nn.Module = Eva(patch_size=8, embed_dim=24, depth=2, num_heads=2, **SIZES)
    return network


def resnet() -> nn.Module:
    from qpatchbench.models.cifar import CifarModel

    return CifarModel(name="resnet20").build(10, 32)


# Attention products and residual additions: two of each a block; a residual addition a block of ResNet-20.
NETWORKS: dict[str, tuple[Build, int, int]] = {
    "vit": (vit, 4, 4),
    "swin": (swin, 8, 8),
    "swin v2": (swin_v2, 8, 8),
    "beit": (beit, 4, 4),
    "eva": (eva, 4, 4),
    "resnet20": (resnet, 0, 9),
}


def built(build: Build) -> nn.Module:
    from qpatchbench.models.timm_models import plain_attention

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build()
        plain_attention(network)
        for name, parameter in network.named_parameters():
            if name.endswith("_bias"):
                nn.init.normal_(parameter, std=0.2)  # timm starts them at zero
    return network.eval()


def deployed(build: Build, bits: int, **fields: Any) -> nn.Module:  # noqa: ANN401 (fields of any type)
    width = Bits(bits, bits)
    ptq = Ptq.model_validate({"name": "ptq", "bits": (width,), **fields})
    checkpoint = Checkpoint(lambda: built(build), built(build).state_dict(), None, (FLOAT,))
    return ptq.deploy(checkpoint, width, IMAGES)


@pytest.mark.parametrize("name", NETWORKS)
def test_full_scope_quantizes_every_product_and_residual_addition(name: str) -> None:
    build, products, sums = NETWORKS[name]
    layers = deployed(build, 8)
    stays = float_operations(layers, IMAGES)
    assert f"{sums} residual additions" in stays
    assert (f"{products} attention products" in stays) == (products > 0)
    full = deployed(build, 8, scope="full")
    assert isinstance(full, FullyQuantized)
    assert len(full.operands) == products + sums
    left = " ".join(float_operations(full, IMAGES))
    assert "products" not in left
    assert "additions" not in left
    assert ("softmax" in left) == (products > 0)
    expected = built(build)(IMAGES).detach()
    spread = float(expected.std())
    coarse = deployed(build, 3, scope="full")
    errors = [float((network(IMAGES) - expected).square().mean().sqrt()) / spread for network in (full, coarse)]
    assert errors[0] < 0.1, "8 bits are near the float network"
    assert errors[0] < errors[1]
    asked = IMAGES.clone().requires_grad_()
    gradient = torch.autograd.grad(full(asked).square().sum(), asked)[0]
    assert bool(gradient.isfinite().all())
    assert bool(gradient.abs().sum() > 0)


@pytest.mark.parametrize("name", ["swin v2", "beit", "eva"])
@pytest.mark.parametrize("fields", [{}, {"recipe": "best"}])
def test_projections_with_biases_elsewhere_are_quantized(name: str, fields: dict[str, Any]) -> None:
    build = NETWORKS[name][0]
    network = built(build)
    expected = network(IMAGES)
    assert call_projections(network) == (4 if name == "swin v2" else 2)
    assert torch.allclose(network(IMAGES), expected, atol=1e-6)
    assert call_projections(network) == 0
    rows = {row.name: row for row in audit(deployed(build, 4, **fields), IMAGES)}
    inside = [row for layer, row in rows.items() if layer.endswith("qkv")]
    assert inside
    assert all(row.weight_levels is not None and row.weight_levels <= 15 for row in inside)
    assert all(row.activation_levels is not None and row.activation_levels <= 16 for row in inside)


def test_operands_lie_on_their_grids() -> None:
    seen: list[torch.Tensor] = []
    network = deployed(vit, 4, scope="full")
    assert isinstance(network, FullyQuantized)
    for part in network.operands.modules():
        if not list(part.children()):
            part.register_forward_hook(lambda layer, arguments, output: seen.append(output))
    network(IMAGES)
    assert len(seen) == 16
    assert all(len(torch.unique(values)) <= 16 for values in seen)


class Moody(nn.Module):
    """Adds more often where an image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.first(images)
        for _ in range(2 if float(images.max()) > 1.5 else 1):
            features = features + features.relu()
        outputs: torch.Tensor = self.second(features.mean((2, 3)))
        return outputs


def test_code_that_takes_another_path_is_an_error() -> None:
    network = deployed(Moody, 8, scope="full")
    network(IMAGES)
    with pytest.raises(QPatchBenchError, match="made 2 products and sums, and 1 when it was calibrated"):
        network(IMAGES * 3)


def test_fused_attention_is_refused_with_the_reason() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.embed(images).flatten(2).mT
            tokens = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            outputs: torch.Tensor = self.head(tokens.mean(1))
            return outputs

    with pytest.raises(QPatchBenchError, match="computes softmax"):
        deployed(Fused, 8, scope="full")
