"""Weights and biases that make up for rounding, layer by layer, each for the inputs that it really gets.

One forward pass carries two copies of every image: the first through the float layers, the second through the layers as
they are being quantized. When a layer's turn comes, all before it are final, so that it sees the inputs x of the float
network next to the inputs x' of the quantized one. From these follow:
- the bias: the mean output becomes that of the float layer, for x' or, where weights shrink, for x (Nagel et al. 2019,
  arXiv 1906.04721, appendix D; Banner et al. 2019, arXiv 1810.05723, section 4.2, correct the weights instead);
- the rounding: which codes make the outputs differ least (Nagel et al. 2020, AdaRound, arXiv 2004.10568; Frantar et al.
  2023, GPTQ, arXiv 2210.17323).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from qpatchbench.ops.quantization.fake_quantization import CodeRange, code_range, fake_quantize, max_scale, mse_scale
from qpatchbench.ops.quantization.rounding import (
    learn_rounding,
    matched_weights,
    refine_codes,
    round_sequentially,
    weighted_scale,
)
from qpatchbench.quantizers.calibrated.grids import Planned
from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.quantizers.trained.layers import float_weight, freeze_layer
from qpatchbench.types import FLOAT_BITS

DAMPING = 0.05  # how strongly weights stay what they were, where rounding follows the inputs
SWEEPS = 4  # of exact minimisation after sequential rounding
_POSITIONS = 2**15  # output positions whose inputs are unfolded at a time


@dataclass(frozen=True)
class Rule:
    """How weights become codes.

    Attributes:
        scale: per output channel.
        rounding: of the weights.
        bias: whether the bias makes up for the mean error.
        steps: of AdaRound.
    """

    scale: Literal["max_abs", "mse", "output"]
    rounding: Literal["nearest", "sequential", "adaround"]
    bias: bool
    steps: int

    @property
    def plain(self) -> bool:
        """Whether weights are rounded as they are, without a look at images."""
        return (self.scale, self.rounding, self.bias) == ("max_abs", "nearest", False)

    @property
    def shrinks(self) -> bool:
        """Whether every layer's outputs become a little smaller: weights of least squared error, rounded to nearest.

        Such a Q(w) is a projection, |Q|^2 = <Q, w> = |w|^2 - error. A bias that mends what arrives then keeps the means
        while the spread dies out over fifty layers; one that mends the layer's own error, on the inputs that the float
        layer gets, does not.
        """
        return self.rounding == "nearest" and self.scale != "max_abs"


class Moments(NamedTuple):
    """Second moments of a layer's inputs, per group, float64.

    Attributes:
        hessian: of x', (G, K, K).
        cross: of x with x', (G, K, K).
    """

    hessian: torch.Tensor
    cross: torch.Tensor


@torch.no_grad()
def quantize_weights(module: nn.Module, images: torch.Tensor, plan: Mapping[str, Planned], rule: Rule) -> None:
    """Freeze every planned layer of a float network, in place.

    Args:
        module: float network; BatchNorm is best folded before, which gives every convolution a bias.
        images: (N, 3, H, W), passed twice in one batch.
        plan: by layer name.
        rule: how.
    """
    layers = {module.get_submodule(name): planned for name, planned in plan.items()}
    fitted: dict[nn.Module, tuple[torch.Tensor, torch.Tensor | None]] = {}
    lengths = _lengths(module, images[:1], tuple(layers))

    def replace(layer: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if len(arguments[0]) != 2 * len(images) * lengths[layer]:
            # The same for all images, as Swin V2's position bias: there are no two copies of it.
            rounded = layers[layer].activation(arguments[0])
            fitted[layer] = _fit(layer, arguments[0], rounded, output, layers[layer], rule)
            return output
        exact, rounded = arguments[0].chunk(2)
        rounded = layers[layer].activation(rounded)
        if layer not in fitted:
            fitted[layer] = _fit(layer, exact, rounded, output.chunk(2)[0], layers[layer], rule)
        return torch.cat([output.chunk(2)[0], _forward(layer, rounded, *fitted[layer])])

    hooks = [layer.register_forward_hook(replace) for layer in layers]
    try:
        with evaluating(module):
            module(torch.cat([images, images]))
    finally:
        for hook in hooks:
            hook.remove()
    for layer, planned in layers.items():
        weight, bias = fitted[layer]
        freeze_layer(layer, weight, planned.weight_bits, planned.activation)
        if bias is not None:
            layer._parameters["bias"] = nn.Parameter(bias, requires_grad=False)


def _lengths(module: nn.Module, image: torch.Tensor, layers: tuple[nn.Module, ...]) -> dict[nn.Module, int]:
    """Dimension 0 of every layer's input for one image: 1, or the number of windows, tokens, or table rows."""
    found: dict[nn.Module, int] = {}

    def look(layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        found[layer] = len(arguments[0])

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with evaluating(module):
            module(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _fit(
    layer: nn.Module,
    exact: torch.Tensor,
    rounded: torch.Tensor,
    target: torch.Tensor,
    planned: Planned,
    rule: Rule,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight on its grid, and bias."""
    weight, bias = float_weight(layer).detach(), layer._parameters["bias"]
    if planned.weight_bits != FLOAT_BITS:
        weight = _rounded(layer, weight, exact, rounded, planned, rule)
    if not rule.bias:
        return weight, bias
    axis = 1 if isinstance(layer, nn.Conv2d) else target.ndim - 1
    others = [at for at in range(target.ndim) if at != axis]
    inputs = planned.activation(exact) if rule.shrinks else rounded
    missing = (target - _forward(layer, inputs, weight, bias)).mean(others)
    return weight, missing if bias is None else bias + missing


def _rounded(
    layer: nn.Module, weight: torch.Tensor, exact: torch.Tensor, inputs: torch.Tensor, planned: Planned, rule: Rule
) -> torch.Tensor:
    """The weight on its grid."""
    codes = code_range(planned.weight_bits, signed=True)
    if rule.rounding == "nearest" and rule.scale != "output":
        flat = max_scale(weight, codes.qmax, 0) if rule.scale == "max_abs" else mse_scale(weight, *codes, 0)
        return fake_quantize(weight, flat, *codes, 0)
    moments = _moments(layer, exact, inputs, centred=rule.bias)
    groups = len(moments.hessian)
    rows, hessian = weight.double().reshape(groups, weight.shape[0] // groups, -1), moments.hessian
    if rule.rounding != "nearest":
        rows, hessian = matched_weights(rows, hessian, moments.cross, DAMPING)
    scale = _scale(rows, hessian, codes, rule)
    if rule.rounding == "nearest":
        chosen = (rows / scale).round().clamp(*codes)
    elif rule.rounding == "adaround":
        chosen = learn_rounding(rows, hessian, scale, codes, rule.steps)
    else:
        chosen = round_sequentially(rows, hessian, scale, codes)
        chosen = refine_codes(chosen, rows, hessian, scale, codes, SWEEPS)
    return (chosen * scale).reshape(weight.shape).to(weight.dtype)


def _scale(rows: torch.Tensor, hessian: torch.Tensor, codes: CodeRange, rule: Rule) -> torch.Tensor:
    """(G, R, 1) for rows (G, R, K)."""
    if rule.scale == "output":
        return weighted_scale(rows, hessian.diagonal(dim1=-2, dim2=-1), codes)
    flat = rows.flatten(0, 1)
    scale = max_scale(flat, codes.qmax, 0) if rule.scale == "max_abs" else mse_scale(flat, *codes, 0)
    return scale.view(*rows.shape[:2], 1)


class _Operands(TorchFunctionMode):
    """Notes what a layer's own code hands to the convolution or product, past any padding of its own."""

    def __init__(self) -> None:
        self.convolutions: list[dict[str, Any]] = []

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        arguments: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> object:
        named = named or {}
        if function is functional.conv2d or function is torch.conv2d:
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            self.convolutions.append({**dict(zip(names, arguments, strict=False)), **named})
        return function(*arguments, **named)


def _moments(layer: nn.Module, exact: torch.Tensor, inputs: torch.Tensor, centred: bool) -> Moments:
    """Moments over all images and positions; about the means where the bias takes care of those."""
    sums: list[torch.Tensor] = []
    count = 0
    first = _columns(layer, exact[:1])
    per_chunk = max(1, _POSITIONS // first.shape[-1])
    for one, other in zip(torch.split(exact, per_chunk), torch.split(inputs, per_chunk), strict=True):
        here, there = _columns(layer, one), _columns(layer, other)
        count += here.shape[-1]
        parts = [there @ there.mT, here @ there.mT, there.sum(-1), here.sum(-1)]
        sums = [part.double() for part in parts] if not sums else [a + b for a, b in zip(sums, parts, strict=True)]
    hessian, cross, mean, exact_mean = (part / count for part in sums)
    if centred:
        hessian = hessian - mean[..., None] * mean[:, None]
        cross = cross - exact_mean[..., None] * mean[:, None]
    return Moments(hessian, cross)


def _columns(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What each output position multiplies with the weights: (G, K, positions)."""
    if not isinstance(layer, nn.Conv2d):
        return inputs.reshape(-1, inputs.shape[-1]).T[None]
    with _Operands() as seen:
        type(layer).forward(layer, inputs)
    (call,) = seen.convolutions
    given, padding = call["input"], call.get("padding", 0)
    if isinstance(padding, str):  # torch's "valid" and "same"; the latter has odd kernels almost always
        reach = [spread * (side - 1) // 2 for spread, side in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = reach if padding == "same" else 0
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1) and padding in (0, (0, 0)):
        columns = given.flatten(2)
    else:
        columns = functional.unfold(given, layer.kernel_size, layer.dilation, padding, layer.stride)
    images, _, positions = columns.shape
    groups = call.get("groups", 1)
    gathered: torch.Tensor = columns.reshape(images, groups, -1, positions).permute(1, 2, 0, 3).flatten(2)
    return gathered


def _forward(layer: nn.Module, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The layer's own forward pass with another weight and bias."""
    kept = dict(layer._parameters)
    layer._parameters.update(
        weight=nn.Parameter(weight, False), bias=None if bias is None else nn.Parameter(bias, False)
    )
    try:
        outputs: torch.Tensor = type(layer).forward(layer, inputs)
    finally:
        layer._parameters.update(kept)
    return outputs
