"""Outputs of a network's layers, taken where the next layer computes with them.

That is after BatchNorm, nonlinearity, pooling and the reader's own activation quantizer; so it means the same in a
float network, in one prepared with switchable quantizers, and in a deployed one whose BatchNorm is folded away.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from qpatchbench.errors import QPatchBenchError, suggestion
from qpatchbench.ops.maps.hog import SMALLEST_SIDE
from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.quantizers.trained.layers import quantizable
from qpatchbench.types import Network, Observed

EARLY_STAGES = 3


class _Reading(NamedTuple):
    """Which layer reads, and min(h, w) of the map (B, C, h, w) that it reads; 1 where it reads anything else."""

    reader: str
    side: int


class Taps:
    """Observes the convolutions and linear layers of a network by name; the network itself is never changed.

    Args:
        module: float, prepared or deployed; any mode.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._readings: dict[str, _Reading] = {}
        self._sides: dict[str, int] = {}

    def observed(self, forward: Network, images: torch.Tensor, layers: tuple[str, ...]) -> Observed:
        """Logits and, by name of the layer, what the layer that reads its output computes with; with their graph.

        The reader is the first to read it as a map, else the first of all; where several outputs are added or
        concatenated before they are read, it is the sum or the concatenation.

        Args:
            forward: what runs the network, for example the module itself, or wrapped for mixed precision.
            images: (B, 3, H, W) float32 in [0, 1].
            layers: names as in `named_modules()`; none observes nothing.

        Raises:
            QPatchBenchError: there is no such layer, or no other layer reads its output.
        """
        features: dict[str, torch.Tensor] = {}
        hooks: list[RemovableHandle] = []
        try:
            hooks.extend(self._listen(layer, images, features) for layer in layers)
            logits = forward(images)
        finally:
            for hook in hooks:
                hook.remove()
        return Observed(logits, features)

    def early_layers(self, images: torch.Tensor) -> tuple[str, ...]:
        """The layers the network's class names in `early_layers`; else the first at each of up to three resolutions.

        Resolutions are those of outputs below the stem's, the last one left out, as long as a map of 8 pixels or more
        is handed on (below that, no orientations can be compared). Where no layer is left, all are candidates.

        Args:
            images: (B, 3, H, W) in [0, 1]; the first is run once to learn who reads what.

        Raises:
            QPatchBenchError: no convolution reads a map of another one, as in a vision transformer.
        """
        for prefix, part in self.module.named_modules():
            named = getattr(type(part), "early_layers", None)
            if named is not None:
                return tuple(f"{prefix}.{layer}" if prefix else layer for layer in named)
        maps = self.maps(images)
        resolutions = sorted({side for side in self._sides.values() if side > 1}, reverse=True)
        first: dict[int, str] = {}
        for layer in [layer for layer in maps if self._readings[layer].side >= SMALLEST_SIDE] or maps:
            first.setdefault(self._sides[layer], layer)
        layers = [first[side] for side in resolutions[1:-1] if side in first] or list(first.values())
        if not layers:
            raise QPatchBenchError(
                f"found no early layers in {type(self.module).__name__}: expected a convolution whose output another "
                "one reads as a map; a transformer hands on tokens, which have no edges"
            )
        return tuple(layers[:EARLY_STAGES])

    def maps(self, images: torch.Tensor) -> tuple[str, ...]:
        """The convolutions whose output another one reads as a map of more than a pixel, in order of execution."""
        self._trace(images)
        return tuple(layer for layer in self._sides if layer in self._readings and self._readings[layer].side > 1)

    def _listen(self, layer: str, images: torch.Tensor, features: dict[str, torch.Tensor]) -> RemovableHandle:
        self._trace(images)
        if layer not in self._readings:
            choices = suggestion(layer, self._readings)
            raise QPatchBenchError(f"no layer {layer!r} whose output another layer reads.{choices}")
        reader = self.module.get_submodule(self._readings[layer].reader)
        quantizer = getattr(reader, "activation_quantizer", None)
        if quantizer is None:

            def keep(part: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
                features[layer] = arguments[0]

            return reader.register_forward_pre_hook(keep)

        def keep_quantized(part: nn.Module, arguments: object, output: torch.Tensor) -> None:
            features[layer] = output

        handle: RemovableHandle = quantizer.register_forward_hook(keep_quantized)
        return handle

    def _trace(self, images: torch.Tensor) -> None:
        """Learn once which layer reads the output of which, and how large the outputs of convolutions are."""
        if self._readings:
            return
        names = {layer: name for name, layer in quantizable(self.module)}
        readings: dict[str, _Reading] = {}
        sides: dict[str, int] = {}
        producers: dict[Node, str] = {}

        def note(layer: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            name, inputs = names[layer], arguments[0]
            if isinstance(layer, nn.Conv2d):
                sides[name] = min(output.shape[-2:])
            side = min(inputs.shape[-2:]) if isinstance(layer, nn.Conv2d) else 1
            for source in _sources(inputs.grad_fn, producers):
                # Squeeze-and-excitation reads a map's mean first; what it excites is read after that.
                if source not in readings or (side > 1 and readings[source].side == 1):
                    readings[source] = _Reading(name, side)
            # Order of execution does not tell who reads whom where paths branch; the graph of autograd does. It is
            # cut behind every layer, and so starts there even where no gradient arrives.
            with torch.enable_grad():
                fresh = output.detach().requires_grad_().clone()
            assert fresh.grad_fn is not None, "a copy of what requires a gradient has a graph"
            producers[fresh.grad_fn] = name
            return fresh

        hooks = [layer.register_forward_hook(note) for layer in names]
        try:
            with evaluating(self.module), torch.enable_grad():
                self.module(images[:1].detach())
        finally:
            for hook in hooks:
                hook.remove()
        self._readings, self._sides = readings, sides


def _sources(node: Node | None, producers: dict[Node, str]) -> set[str]:
    """The layers whose outputs a value was made of, without any other layer in between."""
    found: set[str] = set()
    seen: set[Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current is None or current in seen:
            continue
        seen.add(current)
        if current in producers:
            found.add(producers[current])
        else:
            waiting.extend(earlier for earlier, _ in current.next_functions)
    return found
