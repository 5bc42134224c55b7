"""Query, key and value projections whose bias lives elsewhere, made layers that are called.

BEiT, EVA and Swin V2 in timm keep biases of queries and values as parameters of the attention module, and hand the
projection's weight to a function: the layer itself never runs, so that nothing can quantize its input. With the bias
where a linear layer has it, their code calls the layer, to the same result.
"""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def call_projections(module: nn.Module) -> int:
    """Move the biases of every such attention into its projection, in place; return their number."""
    moved = 0
    for part in module.modules():
        projection, queries = getattr(part, "qkv", None), getattr(part, "q_bias", None)
        if not (isinstance(projection, nn.Linear) and isinstance(queries, torch.Tensor) and projection.bias is None):
            continue
        keys, values = part.k_bias, part.v_bias
        assert isinstance(values, torch.Tensor), "an attention with a bias of queries has one of values"
        zeros = torch.zeros_like(queries)
        bias = torch.cat([queries, keys if isinstance(keys, torch.Tensor) else zeros, values])
        projection.bias = nn.Parameter(bias, requires_grad=False)
        for name in ("q_bias", "k_bias", "v_bias"):
            setattr(part, name, None)
        moved += 1
    return moved
