"""Cross-layer equalisation: channels of a tensor get the same range, so that one scale suits them all.

Nagel et al. 2019, Data-Free Quantization, arXiv 1906.04721, section 4.1. Between two layers, with nothing but ReLU or
ReLU6 there, a channel may be divided by s behind the first and multiplied by s in the weights of the second: the float
network stays what it is. There, s evens out the weights of both layers, which here have a scale per output channel
anyway; here it evens out the activations between them. Where the second layer is depthwise its scales absorb s
entirely; else s is the geometric mean of what activations and weights ask for, as in SmoothQuant (Xiao et al. 2023,
arXiv 2211.10438, equation 4 with alpha 0.5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from qpatchbench.quantizers.inspection.inputs import evaluating, observe_inputs
from qpatchbench.quantizers.trained.layers import float_weight, quantizable

TOLERANCE = 1e-3  # largest change of a logit, relative to the largest logit
_MOST = 1e3  # largest s and 1 / s
_BETWEEN = (nn.ReLU, nn.ReLU6, nn.Identity, nn.Dropout)


class ChannelClip(nn.Module):
    """ReLU6 of equalised channels: from 0 to a limit of each channel.

    Args:
        limits: (C,) positive, along dimension 1.
    """

    limits: torch.Tensor

    def __init__(self, limits: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("limits", limits)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) -> the same shape."""
        return inputs.relu().minimum(self.limits.view(-1, *[1] * (inputs.ndim - 2)))


@dataclass(frozen=True)
class Pair:
    """A layer, the activations behind it, and the only layer that reads them, by name."""

    first: str
    between: tuple[str, ...]
    second: str


@torch.no_grad()
def equalize(module: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Equalise every pair that leaves the network's answer as it is; return their number.

    Args:
        module: float network in eval mode, BatchNorm folded; changed in place.
        batches: calibration images (B, 3, H, W), one or more.
    """
    batches = tuple(batches)
    example = batches[0][:2]
    pairs = consecutive_layers(module, example)
    seen = observe_inputs(module, batches, lambda name: {"range": _channel_ranges})
    expected, done = module(example), 0
    for pair in pairs:
        ranges = torch.stack(seen[pair.second].measures["range"]).amax(0)
        before = _state(module, pair)
        _rescale(module, pair, ranges)
        # Something else may read the tensor in between: then the answer changes.
        if float((module(example) - expected).abs().max()) <= TOLERANCE * float(expected.abs().max()):
            done += 1
        else:
            _restore(module, pair, before)
    return done


def consecutive_layers(module: nn.Module, example: torch.Tensor) -> tuple[Pair, ...]:
    """Pairs of convolutions that an example passes one directly after the other, with ReLU, ReLU6 or nothing between.

    Functions between them are not seen if they change the tensor in place, so that a pair is a candidate only.
    """
    names = {part: name for name, part in module.named_modules()}
    layers = {layer for _, layer in quantizable(module) if isinstance(layer, nn.Conv2d)}
    origin: dict[int, tuple[str, tuple[str, ...]]] = {}
    found: list[Pair] = []
    kept: list[torch.Tensor] = []  # a tensor that is gone would leave its number to another

    def look(part: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        source = origin.get(id(arguments[0]))
        kept.extend((arguments[0], output))
        if part in layers:
            if source is not None:
                found.append(Pair(*source, names[part]))
            origin[id(output)] = (names[part], ())
        elif source is not None:
            origin[id(output)] = (source[0], (*source[1], names[part]))

    hooks = [part.register_forward_hook(look) for part in names if part in layers or isinstance(part, _BETWEEN)]
    try:
        with evaluating(module):
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    first, second = Counter(pair.first for pair in found), Counter(pair.second for pair in found)
    return tuple(
        pair
        for pair in found
        if first[pair.first] == second[pair.second] == 1 and _absorbs(module.get_submodule(pair.second))
    )


def _absorbs(layer: nn.Module) -> bool:
    """Whether a factor per input channel fits into its weights: ungrouped or depthwise."""
    return isinstance(layer, nn.Conv2d) and (layer.groups == 1 or _is_depthwise(layer))


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def _channel_ranges(inputs: torch.Tensor) -> torch.Tensor:
    """Largest |x| per channel, (C,)."""
    return inputs.abs().amax(tuple(axis for axis in range(inputs.ndim) if axis != 1))


def _rescale(module: nn.Module, pair: Pair, ranges: torch.Tensor) -> None:
    first, second = module.get_submodule(pair.first), module.get_submodule(pair.second)
    weight, following = float_weight(first), float_weight(second)
    alive = ranges > 0
    if not bool(alive.any()):
        return
    if _is_depthwise(second):
        factors = ranges / ranges.max()
    else:
        columns = following.abs().amax((0, 2, 3))
        alive &= columns > 0
        factors = (ranges / columns.clamp_min(1e-12)).sqrt()
        factors = factors / factors[alive].max()
    factors = torch.where(alive, factors, torch.ones_like(factors)).clamp(1 / _MOST, _MOST)
    weight.div_(factors.view(-1, 1, 1, 1))
    if first._parameters["bias"] is not None:
        first._parameters["bias"].div_(factors)
    following.mul_(factors.view(-1, 1, 1, 1) if _is_depthwise(second) else factors.view(1, -1, 1, 1))
    for name in pair.between:
        if isinstance(module.get_submodule(name), nn.ReLU6):
            _put(module, name, ChannelClip(6.0 / factors))


def _state(module: nn.Module, pair: Pair) -> dict[str, object]:
    layers = {name: dict(module.get_submodule(name)._parameters) for name in (pair.first, pair.second)}
    copies = {name: {key: None if p is None else p.clone() for key, p in held.items()} for name, held in layers.items()}
    return {**copies, **{name: module.get_submodule(name) for name in pair.between}}


def _restore(module: nn.Module, pair: Pair, before: dict[str, object]) -> None:
    for name, value in before.items():
        if isinstance(value, nn.Module):
            _put(module, name, value)
            continue
        assert isinstance(value, dict), "_state() keeps parameters by name"
        for key, kept in value.items():
            if kept is not None:
                module.get_submodule(name).get_parameter(key).copy_(kept)


def _put(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, part)
