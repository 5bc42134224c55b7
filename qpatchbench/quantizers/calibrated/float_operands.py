"""Operands that no layer owns: inputs of attention products and of residual additions, quantized too.

A product of two activations and the sum on a residual path are integer operations on hardware as much as a layer is;
FQ-ViT (Lin et al. 2022, arXiv 2111.13824, section 3) quantizes both. They are calls inside a network's own code, so
they are counted as they happen, and the n-th of a forward pass has the n-th quantizers. Only those are quantized whose
two operands both depend on the image: position embeddings and attention biases are parameters. Softmax, normalisation,
activation functions, gates and pooling stay in floating point.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.calibrated.grids import GridRules, activation_quantizer, measures
from qpatchbench.quantizers.inspection.inputs import Seen, evaluating

PRODUCTS = frozenset({"matmul", "__matmul__", "bmm"})
SUMS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
FLOATING = {
    "softmax": "softmax",
    "layer_norm": "layer normalisations",
    "rms_norm": "layer normalisations",
    "group_norm": "group normalisations",
    "scaled_dot_product_attention": "fused attentions",
}
_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}

Operands = tuple[torch.Tensor, torch.Tensor]
Visit = Callable[[int, str, Operands], Operands]


class FullyQuantized(nn.Module):
    """Mixed into the class of a deployed network: quantizes operands on their way into products and sums.

    Attributes:
        operands: two quantizers by number of the call, "12" for the thirteenth.
        calls: how many products and sums a forward pass has.
    """

    operands: nn.ModuleDict
    calls: int

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As the network does.

        Raises:
            QPatchBenchError: the network's code took another path than when it was calibrated.
        """
        with _Calls(self._quantized) as calls:
            outputs: torch.Tensor = super().forward(images)
        if calls.count != self.calls:
            raise QPatchBenchError(
                f"a network with scope full made {calls.count} products and sums, and {self.calls} when it was "
                "calibrated; expected code that does the same for every batch of images"
            )
        return outputs

    def _quantized(self, number: int, kind: str, given: Operands) -> Operands:
        if str(number) not in self.operands:
            return given
        pair = self.operands[str(number)]
        assert isinstance(pair, nn.ModuleList), "attach_operands() keeps pairs"
        return pair[0](given[0]), pair[1](given[1])


class _Calls(TorchFunctionMode):
    """Numbers products and sums of two tensors, and replaces their operands."""

    def __init__(self, visit: Visit, others: Counter[str] | None = None) -> None:
        super().__init__()
        self.visit, self.others, self.count = visit, others, 0

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        arguments: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> object:
        name, named = getattr(function, "__name__", ""), named or {}
        if name in FLOATING and self.others is not None:
            self.others[FLOATING[name]] += 1
        if name not in PRODUCTS and name not in SUMS:
            return function(*arguments, **named)
        values = [*arguments, *(named.pop(key) for key in ("other", "mat2", "tensor2") if key in named)]
        if len(values) != 2 or not all(isinstance(value, torch.Tensor) for value in values):
            return function(*values, **named)
        kind = "attention products" if name in PRODUCTS else "residual additions"
        left, right = self.visit(self.count, kind, (values[0], values[1]))
        self.count += 1
        return function(left, right, **named)


def plan_operands(
    module: nn.Module, batches: Sequence[torch.Tensor], bits: int, settings: GridRules
) -> tuple[dict[str, nn.ModuleList], int]:
    """Quantizers of all operands by number of their call, and the number of calls, from a float network.

    Raises:
        QPatchBenchError: attention is one fused operation, whose inner operands cannot be reached.
    """
    fused = [name for name, part in module.named_modules() if isinstance(part, nn.MultiheadAttention)]
    kinds, others, calls = image_dependent_calls(module, batches[0][:2])
    if fused or others["fused attentions"]:
        raise QPatchBenchError(
            f"scope full cannot reach the products inside fused attention ({fused[0] if fused else 'the network'} "
            "computes softmax(QK)V in one operation); expected attention that multiplies matrices, or scope layers"
        )
    seen = {number: (Seen(), Seen()) for number in kinds}

    def observe(number: int, kind: str, given: Operands) -> Operands:
        for entry, values in zip(seen.get(number, ()), given, strict=False):
            entry.lowest = min(entry.lowest, float(values.min()))
            for key, measure in measures(settings).items():
                entry.measures.setdefault(key, []).append(measure(values))
        return given

    with evaluating(module), torch.no_grad():
        for images in batches:
            with _Calls(observe):
                module(images)
    pairs = {
        str(number): nn.ModuleList(activation_quantizer(entry, bits, settings) for entry in entries)
        for number, entries in seen.items()
    }
    return pairs, calls


def attach_operands(module: nn.Module, operands: Mapping[str, nn.ModuleList], calls: int) -> None:
    """Turn a network, in place, into one that quantizes these operands."""
    original = type(module)
    if original not in _CLASSES:
        body = {"__module__": original.__module__}
        _CLASSES[original] = type(f"FullyQuantized{original.__name__}", (FullyQuantized, original), body)
    module.__class__ = _CLASSES[original]
    module.operands = nn.ModuleDict(dict(operands))
    setattr(module, "calls", calls)  # noqa: B010 (torch types attributes as tensors or modules)


def image_dependent_calls(module: nn.Module, images: torch.Tensor) -> tuple[dict[int, str], Counter[str], int]:
    """Numbers of the products and sums whose operands both depend on the images, with their kind.

    Also how many operations stay in floating point by kind, and how many products and sums there are in all.
    """
    found: dict[int, str] = {}
    others: Counter[str] = Counter()

    def note(number: int, kind: str, given: Operands) -> Operands:
        if all(value.requires_grad for value in given):
            found[number] = kind
        return given

    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with evaluating(module), torch.enable_grad(), _Calls(note, others) as calls:
            module(images.detach().clone().requires_grad_())
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
    return found, others, calls.count


def float_operations(network: nn.Module, images: torch.Tensor) -> tuple[str, ...]:
    """What a deployed network computes in floating point besides its layers, for example "24 residual additions".

    Args:
        network: deployed; one that has `members` is described by its first.
        images: (N, 3, H, W); one is enough.
    """
    members = getattr(network, "members", None)
    if isinstance(members, nn.ModuleDict | nn.ModuleList):
        return float_operations(next(iter(members.children())), images)
    found, others, _ = image_dependent_calls(network, images[:1])
    counts = Counter(others)
    quantized: Iterable[str] = network.operands if isinstance(network, FullyQuantized) else ()
    for number, kind in found.items():
        counts[kind] += str(number) not in quantized
    return tuple(f"{count} {kind}" for kind, count in sorted(counts.items()) if count)
