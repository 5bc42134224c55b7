"""BatchNorm folded into the layer before it, for speed: one operation less, and one less to differentiate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from qpatchbench.ops.quantization.batch_norm_folding import folded
from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.quantizers.inspection.norms_behind import norms_behind, same_answer
from qpatchbench.quantizers.trained.layers import affine, batch_norms, behind_norm, float_weight, foldable


@dataclass(frozen=True)
class _Pair:
    layer: nn.Module
    parent: nn.Module
    name: str
    norm: nn.Module


@torch.no_grad()
def fold_batch_norm(module: nn.Module, example: torch.Tensor) -> int:
    """Fold every BatchNorm whose input is exactly the output of one convolution or linear layer; return their number.

    The pairs are found by running the example, and a fold that changes the network's answer to it is undone: a
    convolution whose output someone else reads too cannot absorb a BatchNorm.

    Args:
        module: frozen network, in eval mode; changed in place.
        example: images (B, 3, H, W); one is enough, none means that nothing is folded.
    """
    if not len(example):
        return 0
    pairs = _pairs(module, example)
    # Compared without activation rounding, where a last-bit difference may move a value by a whole step.
    with _unrounded(module):
        expected = module(example)
        originals = [_fold(pair) for pair in pairs]
        if same_answer(module(example), expected):
            return len(pairs)
        for pair, original in zip(pairs, originals, strict=True):
            _unfold(pair, original)
        folded = 0
        for pair in pairs:
            original = _fold(pair)
            if same_answer(module(example), expected):
                folded += 1
            else:
                _unfold(pair, original)
    return folded


def _pairs(module: nn.Module, example: torch.Tensor) -> list[_Pair]:
    places = {norm: (parent, name) for parent, name, norm in batch_norms(module) if foldable(norm)}
    return [_Pair(layer, *places[norm], norm) for layer, norm in norms_behind(module, example, list(places))]


def _fold(pair: _Pair) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Fold one pair and return the weight and bias it had."""
    weight, bias = float_weight(pair.layer), pair.layer._parameters["bias"]
    # Float64, so that folding adds no rounding beyond that of the result.
    scaled, shift = folded(weight, bias, affine(pair.norm), torch.float64)
    pair.layer._parameters["weight"] = nn.Parameter(scaled, requires_grad=False)
    pair.layer._parameters["bias"] = nn.Parameter(shift, requires_grad=False)
    rest = behind_norm(pair.norm)
    setattr(pair.parent, pair.name, nn.Sequential(*rest) if len(rest) > 1 else rest[0] if rest else nn.Identity())
    return weight, bias


def _unfold(pair: _Pair, original: tuple[nn.Parameter, nn.Parameter | None]) -> None:
    pair.layer._parameters["weight"], pair.layer._parameters["bias"] = original
    setattr(pair.parent, pair.name, pair.norm)


@contextmanager
def _unrounded(module: nn.Module) -> Iterator[None]:
    quantizers = [part for part in module.modules() if isinstance(part, FrozenActivation)]
    for quantizer in quantizers:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.enabled = True
