"""Preprocessing lies inside the network, exactly and differentiably."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from qpatchbench.models.classifier import ImageClassifier
from qpatchbench.models.timm_models import plain_attention

MEAN, STD = (0.1, 0.5, 0.75), (0.25, 0.5, 0.125)


def seen_by_backbone(images: torch.Tensor, image_size: int) -> torch.Tensor:
    seen: torch.Tensor = ImageClassifier(nn.Identity(), MEAN, STD, image_size)(images)
    return seen


def test_the_mean_image_is_zero_and_one_deviation_is_one() -> None:
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    images = mean.expand(2, 3, 4, 4)
    assert torch.equal(seen_by_backbone(images, 4), torch.zeros(2, 3, 4, 4))
    torch.testing.assert_close(seen_by_backbone(images + std, 4), torch.ones(2, 3, 4, 4))


def test_images_of_the_right_size_are_not_resampled() -> None:
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.equal(seen_by_backbone(images, 6), expected)


def test_other_sizes_are_resampled_bilinearly_about_pixel_centres() -> None:
    ramp = torch.tensor([0.0, 1.0]).expand(1, 3, 2, 2)
    seen = ImageClassifier(nn.Identity(), (0, 0, 0), (1, 1, 1), 4)(ramp)
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(1, 3, 4, 4))
    # No antialiasing: halving a 4-pixel ramp averages its two central neighbours only.
    wide = torch.tensor([0.0, 0.2, 0.6, 1.0]).expand(1, 3, 4, 4)
    seen = ImageClassifier(nn.Identity(), (0, 0, 0), (1, 1, 1), 2)(wide)
    torch.testing.assert_close(seen, torch.tensor([0.1, 0.8]).expand(1, 3, 2, 2))


def test_the_state_dict_holds_the_backbone_alone() -> None:
    network = ImageClassifier(nn.Linear(2, 2), MEAN, STD, 4)
    assert set(network.state_dict()) == {"backbone.weight", "backbone.bias"}
    assert network.to(torch.float64).mean.dtype == torch.float64


def tiny_deit() -> nn.Module:
    return VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=3)


def tiny_swin() -> nn.Module:
    return SwinTransformer(
        img_size=8, patch_size=2, window_size=2, embed_dim=4, depths=(2,), num_heads=(2,), num_classes=3
    )


@pytest.mark.parametrize("build", [tiny_deit, tiny_swin])
def test_attention_has_exact_first_and_second_derivatives(build: Callable[[], nn.Module]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = build()
        # Fresh transformers start with tiny weights; larger ones make the derivatives worth checking.
        for parameter in backbone.parameters():
            nn.init.normal_(parameter, std=0.3)
        images = torch.rand(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
        attention = [module for module in backbone.modules() if hasattr(module, "fused_attn")]
        for module in attention:
            module.fused_attn = True  # type: ignore[assignment]  # torch types attributes as tensors or modules
        plain_attention(backbone)
        assert attention
        assert not any(module.fused_attn for module in attention)
        network = ImageClassifier(backbone, MEAN, STD, 8).double().eval()
        assert torch.autograd.gradcheck(network, (images,), fast_mode=True)
        assert torch.autograd.gradgradcheck(network, (images,), fast_mode=True)
