"""BatchNorm folded into the layer before it, for speed: one operation less, and one less to differentiate.

Jacob et al. 2018, arXiv 1712.05877, section 3.2, but after the weights are quantized: only a factor per output channel
moves, so the integer codes stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.quantizers.trained.layers import batch_norms, float_weight

TOLERANCE = 1e-3  # largest change of a logit, relative to the largest logit


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
        if _close(module(example), expected):
            return len(pairs)
        for pair, original in zip(pairs, originals, strict=True):
            _unfold(pair, original)
        folded = 0
        for pair in pairs:
            original = _fold(pair)
            if _close(module(example), expected):
                folded += 1
            else:
                _unfold(pair, original)
    return folded


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp_min(1e-6))


def _pairs(module: nn.Module, example: torch.Tensor) -> list[_Pair]:
    """Layers and BatchNorms that run once each, the second on the very tensor that the first returned."""
    outputs: list[tuple[nn.Module, torch.Tensor]] = []
    inputs: list[tuple[nn.Module, torch.Tensor]] = []

    def returned(layer: nn.Module, arguments: object, output: torch.Tensor) -> None:
        outputs.append((layer, output))

    def received(norm: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        inputs.append((norm, arguments[0]))

    norms = [found for found in batch_norms(module) if _foldable(found[2])]
    layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(returned) for layer in layers]
    hooks += [norm.register_forward_pre_hook(received) for _, _, norm in norms]
    try:
        module(example)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = []
    for parent, name, norm in norms:
        sources = [tensor for found, tensor in inputs if found is norm]
        matches = [layer for layer, tensor in outputs if len(sources) == 1 and tensor is sources[0]]
        if len(matches) == 1 and sum(layer is matches[0] for layer, _ in outputs) == 1:
            pairs.append(_Pair(matches[0], parent, name, norm))
    return pairs


def _foldable(norm: nn.Module) -> bool:
    """Plain BatchNorm, or timm's with an activation behind it; both with running statistics."""
    plain = type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
    return (plain or hasattr(norm, "act")) and norm.running_var is not None


def _fold(pair: _Pair) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Fold one pair and return the weight and bias it had."""
    layer, norm = pair.layer, pair.norm
    weight, bias = float_weight(layer), layer._parameters["bias"]
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm), "_foldable() chose it"
    assert norm.running_var is not None, "_foldable() chose it"
    assert norm.running_mean is not None, "_foldable() chose it"
    # Float64, so that folding adds no rounding beyond that of the result.
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    factor = factor if norm.weight is None else factor * norm.weight.double()
    shift = -norm.running_mean.double() * factor
    shift = shift if norm.bias is None else shift + norm.bias.double()
    shift = shift if bias is None else shift + bias.double() * factor
    scaled = weight.double() * factor.view(-1, *[1] * (weight.ndim - 1))
    layer._parameters["weight"] = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
    layer._parameters["bias"] = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
    rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
    rest = [part for part in rest if not isinstance(part, nn.Identity)]
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
