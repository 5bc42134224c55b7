"""Operators that multiply by weights, counted where they run: what a network computes outside of its layers.

Layers are what a quantizer can see. A network may multiply all the same by what no layer owns: a convolution called as
a function, a matrix product with a parameter, a linear layer's weight handed to a function, experts that are mixed into
one weight. Below autograd every one of them is a handful of operators, and a dispatch mode meets each as it runs.
An operand that does not depend on the image is a weight; of a convolution, the filter is, whatever it depends on. Two
operands that do depend on it make an attention product, which is no multiplication by weights. One filter for all
channels is pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

# Place of the two factors among the arguments of an operator.
PRODUCTS = {
    "mm": (0, 1), "bmm": (0, 1), "mv": (0, 1), "dot": (0, 1), "linear": (0, 1), "matmul": (0, 1),
    "addmm": (1, 2), "addmm_": (1, 2), "baddbmm": (1, 2), "baddbmm_": (1, 2), "addbmm": (1, 2), "addmv": (1, 2),
}  # fmt: skip
CONVOLUTIONS = {"convolution", "_convolution", "convolution_overrideable"}
FUSED = {
    "_trilinear", "_native_multi_head_attention", "_transformer_encoder_layer_fwd", "mkldnn_rnn_layer", "_cudnn_rnn",
    "miopen_rnn", "lstm", "gru",
}  # fmt: skip
TRANSPOSED = 6  # place of that argument of a convolution


@dataclass(frozen=True)
class Operator:
    """Multiplications by weights that one module's own code makes in one way.

    Attributes:
        module: name of the innermost module that was running, "" for the network's own code.
        kind: convolution, matrix product, product (element by element, of a weight against every input), or the name of
            a fused operator.
        multiplications: multiply-accumulates of the whole batch.
        storage: where its weights lie.
        weight_levels: most distinct weights of one output; 0 where they are known by another way.
        activation_levels: most distinct inputs of one image; 0 likewise.
    """

    module: str
    kind: str
    multiplications: int
    storage: int
    weight_levels: int = 0
    activation_levels: int = 0

    @property
    def name(self) -> str:
        """As messages name it, for example "blocks.0.experts (convolution)"."""
        return f"{self.module or 'the network'} ({self.kind})"


class _Product(NamedTuple):
    kind: str
    inputs: torch.Tensor
    weights: torch.Tensor
    rows: torch.Tensor  # the weights, one row per output
    multiplications: int


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Meets every operator of a forward pass."""

    def __init__(self, images: torch.Tensor, running: Callable[[], str], known: Callable[[str, int], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch, self.running, self.known = len(images), running, known
        self.seen = {_storage(images)}  # of tensors that depend on the images
        self.found: list[Operator] = []

    def __torch_dispatch__(
        self,
        function: Any,  # noqa: ANN401 (an operator of torch)
        types: object,
        arguments: tuple[Any, ...] = (),
        named: Mapping[str, Any] | None = None,
    ) -> object:
        outputs = function(*arguments, **(named or {}))
        given = [*_tensors(arguments), *_tensors(tuple((named or {}).values()))]
        results = {_storage(tensor) for tensor in _tensors((outputs,))}
        if any(self._seen(tensor) for tensor in given):
            self.seen |= results
            product = self._product(function.overloadpacket.__name__, arguments, given, outputs)
            if product is not None and product.multiplications:
                self.found.append(self._operator(product))
        else:
            self.seen -= results  # new tensors may lie where one that is gone depended on the images
        return outputs

    def _seen(self, tensor: torch.Tensor) -> bool:
        return _storage(tensor) in self.seen

    def _product(self, name: str, arguments: tuple[Any, ...], given: list[torch.Tensor], out: Any) -> _Product | None:  # noqa: ANN401
        if name in CONVOLUTIONS:
            inputs, weights = arguments[0], arguments[1]
            if not self._seen(weights) and weights.shape[1] == 1 and bool((weights == weights[:1]).all()):
                return None
            count = (inputs if arguments[TRANSPOSED] else out).numel() * weights[0].numel()
            return _Product("convolution", inputs, weights, weights.flatten(1), count)
        if name in PRODUCTS:
            left, right = (arguments[place] for place in PRODUCTS[name])
            if self._seen(left) == self._seen(right):
                return None
            count = max(out.numel(), 1) * left.shape[-1] if name != "addbmm" else left.numel() * right.shape[-1]
            if self._seen(right):
                return _Product("matrix product", right, left, left.reshape(-1, left.shape[-1]), count)
            by_output = right if name == "linear" or right.ndim < 2 else right.transpose(-1, -2)
            return _Product("matrix product", left, right, by_output.reshape(-1, by_output.shape[-1]), count)
        if name in ("mul", "mul_") and len(given) == 2:
            inputs, weights = given if self._seen(given[0]) else given[::-1]
            grows = not self._seen(weights) and out.numel() > inputs.numel()  # or it scales, as BatchNorm does
            return _Product("product", inputs, weights, weights.reshape(1, -1), out.numel()) if grows else None
        if name in FUSED:
            inputs = next(tensor for tensor in given if self._seen(tensor))
            matrices = [part for part in given if not self._seen(part) and part.ndim > 1]
            if matrices:
                count = inputs.numel() // inputs.shape[-1] * sum(part.numel() for part in matrices)
                largest = max(matrices, key=torch.Tensor.numel)
                return _Product(name.strip("_"), inputs, largest, largest.flatten(1), count)
        return None

    def _operator(self, product: _Product) -> Operator:
        module, storage, inputs = self.running(), _storage(product.weights), product.inputs
        if self.known(module, storage):
            return Operator(module, product.kind, product.multiplications, storage)
        by_image = inputs.reshape(self.batch, -1) if inputs.numel() % self.batch == 0 else inputs.reshape(1, -1)
        weight_levels, activation_levels = _most_levels(product.rows), _most_levels(by_image)
        return Operator(module, product.kind, product.multiplications, storage, weight_levels, activation_levels)


@contextmanager
def counting(
    network: nn.Module, images: torch.Tensor, known: Callable[[str, int], bool] = lambda module, storage: False
) -> Iterator[Counting]:
    """Count within a `with`, in which `network(images)` runs once, without gradients; `found` has the operators.

    Args:
        network: in eval mode.
        images: (N, 3, H, W).
        known: whether the levels of weights at a storage, used by a module, need not be counted.
    """
    with _following(network) as stack, Counting(images, lambda: stack[-1], known) as mode:
        yield mode


def outside_of(layers: Mapping[str, int], found: Sequence[Operator]) -> tuple[Operator, ...]:
    """The operators that no layer accounts for, those of one module and kind added up.

    Args:
        layers: name -> multiply-accumulates of a batch that are the layer's own; of what its code does beyond, only
            that counts as outside. -1: all that its code does is its own.
        found: in order of execution.
    """
    beyond: dict[str, int] = {}
    outside: dict[tuple[str, str], Operator] = {}
    for operator in found:
        layer = layer_around(layers, operator.module)
        if layer is not None:
            beyond[layer] = beyond.get(layer, -layers[layer]) + operator.multiplications
    for operator in found:
        layer = layer_around(layers, operator.module)
        if layer is not None and (layers[layer] < 0 or beyond[layer] <= 0 or not operator.weight_levels):
            continue
        known = outside.get((operator.module, operator.kind), operator)
        count = operator.multiplications + (known.multiplications if known is not operator else 0)
        outside[operator.module, operator.kind] = replace(
            operator,
            multiplications=count,
            weight_levels=max(known.weight_levels, operator.weight_levels),
            activation_levels=max(known.activation_levels, operator.activation_levels),
        )
    return tuple(outside.values())


def layer_around(layers: Collection[str], module: str) -> str | None:
    """The layer that is, or holds, a module; None for one outside of all."""
    parts = module.split(".")
    around = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in around if name in layers), None)


@contextmanager
def _following(network: nn.Module) -> Iterator[list[str]]:
    """Names of the modules that are running, the innermost last."""
    stack = [""]
    hooks = []
    for name, module in network.named_modules():
        if name:
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
            hooks.append(module.register_forward_hook(lambda *_: _dropped(stack), always_call=True))
    try:
        yield stack
    finally:
        for hook in hooks:
            hook.remove()


def _dropped(stack: list[str]) -> None:
    stack.pop()


def _most_levels(rows: torch.Tensor) -> int:
    """Most distinct values of a row."""
    ordered = rows.sort(dim=1).values
    return int((ordered[:, 1:] != ordered[:, :-1]).sum(dim=1).max()) + 1


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: tuple[Any, ...] | list[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
