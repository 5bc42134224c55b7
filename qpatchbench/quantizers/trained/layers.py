"""Quantization of modules in place, so that the state dict keeps the names of the float architecture."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from qpatchbench.ops.quantization.batch_norm_folding import Affine, folded
from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.quantizers.trained.fake_quantizers import ActivationQuantizer, WeightQuantizer
from qpatchbench.types import FLOAT, Bits

_CLASSES: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


class QuantizedLayer(nn.Module):
    """Mixed into the class of a convolution or linear layer: quantizes its input, and its weight wherever it is read.

    Whatever the layer's own code does with `self.weight` (padding as in TensorFlow, sharing with another module)
    it does with the quantized weight; the raw one stays the parameter named "weight".
    """

    weight_quantizer: WeightQuantizer
    activation_quantizer: ActivationQuantizer
    held: Held | None = None  # while parameters are constants

    @property
    def raw_weight(self) -> nn.Parameter:
        """The float parameter."""
        return float_weight(self)

    @property
    def weight(self) -> torch.Tensor:
        """The weight at the active bits; the parameter itself at 32."""
        return self.quantized_weight() if self.held is None else self.held.of(self)[0]

    @property
    def bias(self) -> torch.Tensor | None:
        """The parameter, or what a BatchNorm that is absorbed makes of it."""
        return self._parameters["bias"] if self.held is None else self.held.of(self)[1]

    def quantized_weight(self) -> torch.Tensor:
        """The weight at the active bits, quantized now."""
        quantized: torch.Tensor = self.weight_quantizer(self.raw_weight)
        return quantized

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as the float layer takes them."""
        outputs: torch.Tensor = super().forward(self.activation_quantizer(inputs))
        return outputs


class Held:
    """Weights and biases that one layer computed once for every bit-width.

    Args:
        norm: the BatchNorm that is folded into them, or None.
    """

    def __init__(self, norm: SwitchableBatchNorm | None) -> None:
        self._norm = norm
        self._at: dict[Bits, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def of(self, layer: QuantizedLayer) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias at the active bits."""
        bits = layer.weight_quantizer.active
        if bits not in self._at:
            weight, bias = layer.quantized_weight(), layer._parameters["bias"]
            self._at[bits] = (
                (weight, bias) if self._norm is None else folded(weight, bias, affine(self._norm.current()))
            )
        return self._at[bits]


class FrozenLayer(nn.Module):
    """Mixed into a deployed layer: its weight is stored on the grid, its input is quantized on arrival.

    Attributes:
        weight_bits: 32 = float.
        weight_error: root mean square of what became of the float weight, relative to that of the float weight.
        mirrored: whether the grid of the weight mirrors itself around zero.
    """

    activation_quantizer: FrozenActivation
    weight_bits: int
    weight_error: float
    mirrored: bool

    @property
    def stored_weight(self) -> nn.Parameter:
        """The weight on its grid, times a factor per output channel once BatchNorm is folded."""
        return float_weight(self)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as the float layer takes them."""
        outputs: torch.Tensor = super().forward(self.activation_quantizer(inputs))
        return outputs


class SwitchableBatchNorm(nn.Module):
    """One BatchNorm, statistics and affine, per bit-width (Guerra et al. 2020, arXiv 2002.02815; Yu et al. 2021,
    Any-Precision DNNs, arXiv 1911.07346): activations of different precision have different statistics.
    """  # noqa: D205 (the references do not fit on one line)

    def __init__(self, original: nn.Module, bits: tuple[Bits, ...]) -> None:
        super().__init__()
        self.at_bits = nn.ModuleDict({str(width): copy.deepcopy(original) for width in bits})
        self.default = str(FLOAT if FLOAT in bits else bits[0])
        self.active = FLOAT
        self.absorbed = False  # by the layer before it, while parameters are constants
        self.training = original.training

    def current(self) -> nn.Module:
        """The BatchNorm of the active bits; where the set has no 32, the float path uses the first."""
        name = str(self.active)
        return self.at_bits[name if name in self.at_bits else self.default]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as BatchNorm takes them."""
        norm = self.current()
        if not self.absorbed:
            outputs: torch.Tensor = norm(inputs)
            return outputs
        for part in behind_norm(norm):
            inputs = part(inputs)
        return inputs


def quantizable(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and layers that can be quantized: Conv2d and Linear of any subclass that own their weight.

    Parts of nn.MultiheadAttention are left out: it reads weights without calling its layers.
    """
    inside: set[nn.Module] = set()
    for name, layer in module.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            inside.update(layer.modules())
        elif isinstance(layer, nn.Conv2d | nn.Linear) and layer not in inside and "weight" in layer._parameters:
            yield name, layer


def is_shortcut(layer: nn.Module) -> bool:
    """Whether it is a 1x1 convolution with a stride, which reduces a residual block's input for its sum."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and max(layer.stride) > 1


def float_weight(layer: nn.Module) -> nn.Parameter:
    """The parameter named "weight", past any property of that name."""
    weight = layer._parameters["weight"]
    assert weight is not None, "quantizable() admits only layers with a weight"
    return weight


def quantize_layer(
    layer: nn.Module, weight_quantizer: WeightQuantizer, activation_quantizer: ActivationQuantizer
) -> None:
    """Turn a float layer into a `QuantizedLayer` of its own class."""
    layer.__class__ = _mixed(QuantizedLayer, type(layer))
    layer.weight_quantizer = weight_quantizer.train(layer.training)
    layer.activation_quantizer = activation_quantizer.train(layer.training)


def freeze_layer(
    layer: nn.Module, weight: torch.Tensor, weight_bits: int, activation_quantizer: FrozenActivation
) -> None:
    """Turn a float or quantized layer into a `FrozenLayer` that stores `weight`, already on its grid."""
    original = type(layer).__mro__[2] if isinstance(layer, QuantizedLayer) else type(layer)
    exact, mirrored = float_weight(layer).detach(), True
    if isinstance(layer, QuantizedLayer):
        mirrored = layer.weight_quantizer.scale != "min_max"
        del layer.weight_quantizer
    layer.__class__ = _mixed(FrozenLayer, original)
    layer._parameters["weight"] = nn.Parameter(weight.detach().clone(), requires_grad=False)
    layer.activation_quantizer = activation_quantizer
    error = float((weight.detach() - exact).norm() / exact.norm().clamp_min(1e-30))
    for name, value in (("weight_bits", weight_bits), ("weight_error", error), ("mirrored", mirrored)):
        setattr(layer, name, value)


def batch_norms(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Parent, attribute name and module of every BatchNorm."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                yield parent, name, child


def foldable(norm: nn.Module) -> bool:
    """Whether it is plain BatchNorm, or timm's with an activation behind it; both with running statistics."""
    plain = type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
    return isinstance(norm, _BatchNorm) and (plain or hasattr(norm, "act")) and norm.running_var is not None


def affine(norm: nn.Module) -> Affine:
    """What a foldable BatchNorm computes in eval mode, but for the modules behind it."""
    assert isinstance(norm, _BatchNorm), "foldable() chose it"
    assert norm.running_mean is not None, "foldable() chose it"
    assert norm.running_var is not None, "foldable() chose it"
    return Affine(norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)


def behind_norm(norm: nn.Module) -> list[nn.Module]:
    """Dropout and activation that timm puts into a BatchNorm, behind it; nothing for torch's own."""
    rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
    return [part for part in rest if not isinstance(part, nn.Identity)]


def switch_to(module: nn.Module, bits: Bits) -> None:
    """Let every part use `bits`, or its float path, from the next forward pass on."""
    for part in module.modules():
        if isinstance(part, WeightQuantizer | ActivationQuantizer | SwitchableBatchNorm):
            part.active = bits


def _mixed(mixin: type[nn.Module], original: type[nn.Module]) -> type[nn.Module]:
    """One class per pair, so that layers of a kind share their type."""
    if (mixin, original) not in _CLASSES:
        prefix = mixin.__name__.removesuffix("Layer")
        body = {"__module__": original.__module__}
        _CLASSES[mixin, original] = type(f"{prefix}{original.__name__}", (mixin, original), body)
    return _CLASSES[mixin, original]
