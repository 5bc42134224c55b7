"""Networks whose best patch is known exactly, so that an attack can be held to the optimum.

For a linear network z = Wx, the margin z_t - z_y under a patch is linear in the patch's pixels. Its maximum over
[0, 1] is the vertex 1[w > 0], with w the mean of (w_t - w_y) over the positions where the patch may lie. Weight-only
quantization keeps the network linear, so that a whole table of source bits against target bits has exact entries.
"""

from __future__ import annotations

import torch


def linear_network(weight: torch.Tensor) -> torch.nn.Module:
    """Images (B, 3, H, W) -> logits (B, K) = flatten(x) @ weight.T, in eval mode; weight is (K, 3*H*W)."""
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return torch.nn.Sequential(torch.nn.Flatten(), layer).eval()


def patch_weight(weight: torch.Tensor, label: int, target: int, side: int, size: int) -> torch.Tensor:
    """Slope of the mean margin z_target - z_label in each patch pixel, (3, size, size).

    The mean is over all (side - size + 1)^2 positions of a size x size patch in a side x side image.
    """
    slope = (weight[target] - weight[label]).view(3, side, side)
    windows = slope.unfold(1, size, 1).unfold(2, size, 1)  # (3, rows, columns, size, size)
    return windows.mean(dim=(1, 2))


def best_patch(weight: torch.Tensor, label: int, target: int, side: int, size: int) -> torch.Tensor:
    """The exact optimum: 1 where the slope is positive, else 0; (3, size, size)."""
    return (patch_weight(weight, label, target, side, size) > 0).float()


def margin_gain(weight: torch.Tensor, texture: torch.Tensor, label: int, target: int, side: int) -> float:
    """What a patch adds to the mean margin, relative to an all-black one; exact, no sampling."""
    return float((patch_weight(weight, label, target, side, texture.shape[-1]) * texture).sum())
