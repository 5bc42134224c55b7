"""A network under training, as a defense sees it: one forward function that answers at several bit-widths."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from qpatchbench.defenses.base import Observed
from qpatchbench.errors import TrainingError
from qpatchbench.quantizers.layers import quantizable
from qpatchbench.quantizers.observing import evaluating
from qpatchbench.types import FLOAT, Bits, Network

EARLY_STAGES = 3


class Switch:
    """Implements `defenses.base.SwitchableNetwork`.

    Args:
        module: the network, prepared with quantizers or not.
        forward: what runs it, for example the module as mixed precision wraps it.
        quantized: whether it has quantizers.
    """

    def __init__(self, module: torch.nn.Module, forward: Network, quantized: bool) -> None:
        self.module, self.forward, self.quantized = module, forward, quantized
        self._readers: dict[str, str] = {}
        self._sides: dict[str, int] = {}

    def at(self, bits: Bits) -> Network:
        """The network at `bits`.

        Raises:
            TrainingError: a float network is asked for other bits than 32.
        """
        if self.quantized:
            from qpatchbench.quantizers.switchable import set_bits

            set_bits(self.module, bits)
        elif bits != FLOAT:
            raise TrainingError(f"a float network has no quantizers for {bits} bits")
        return self.forward

    def evaluating(self) -> AbstractContextManager[None]:
        """Eval mode inside."""
        return evaluating(self.module)

    def observed(self, bits: Bits, images: torch.Tensor, layers: tuple[str, ...]) -> Observed:
        """Logits and, by name of the layer, what the layer executed after it reads.

        Raises:
            TrainingError: there is no such layer, or none after it.
        """
        self._trace(images)
        for layer in layers:
            if layer not in self._readers:
                known = ", ".join(self._readers)
                raise TrainingError(f"no layer {layer!r} whose output another layer reads. Available: {known}")
        parts = dict(self.module.named_modules())
        features: dict[str, torch.Tensor] = {}
        hooks = []
        for layer in layers:
            reader = parts[self._readers[layer]]
            # A quantizer hands on what its layer computes with; a float layer is handed it.
            quantizer = getattr(reader, "activation_quantizer", None)

            def keep(part: torch.nn.Module, arguments: tuple[torch.Tensor, ...], layer: str = layer) -> None:
                features[layer] = arguments[0]

            def keep_output(part: torch.nn.Module, arguments: object, output: torch.Tensor, layer: str = layer) -> None:
                features[layer] = output

            hooks.append(
                reader.register_forward_pre_hook(keep)
                if quantizer is None
                else quantizer.register_forward_hook(keep_output)
            )
        try:
            logits = self.at(bits)(images)
        finally:
            for hook in hooks:
                hook.remove()
        return Observed(logits, features)

    def early_layers(self, images: torch.Tensor) -> tuple[str, ...]:
        """The layers the network's class names in `early_layers`; else the first at each of up to three resolutions.

        Resolutions are those of outputs below the stem's, the last one left out.
        """
        self._trace(images)
        for prefix, part in self.module.named_modules():
            named = getattr(type(part), "early_layers", None)
            if named is not None:
                return tuple(f"{prefix}.{layer}" if prefix else layer for layer in named)
        first: dict[int, str] = {}
        for layer in self._readers:
            first.setdefault(self._sides[layer], layer)
        sides = sorted((side for side in first if side > 1), reverse=True)
        stages = sides[1:-1] or sides
        return tuple(first[side] for side in stages[:EARLY_STAGES])

    def _trace(self, images: torch.Tensor) -> None:
        """Learn once which layer reads the output of which, in order of execution, and how large it is."""
        if self._readers:
            return
        order: list[str] = []
        hooks = []
        for name, layer in quantizable(self.module):

            def note(part: torch.nn.Module, arguments: object, output: torch.Tensor, name: str = name) -> None:
                order.append(name)
                self._sides[name] = int(output.shape[-1]) if output.dim() == 4 else 1

            hooks.append(layer.register_forward_hook(note))
        try:
            with self.evaluating(), torch.no_grad():
                self.module(images[:1])
        finally:
            for hook in hooks:
                hook.remove()
        self._readers = dict(zip(order, order[1:], strict=False))
