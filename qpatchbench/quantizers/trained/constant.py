"""A network under training while its parameters are constants, as an attack within a training step sees it.

Weights are quantized once per bit-width, not in each pass, and BatchNorm in eval mode is folded into the layer before
it, as in a deployed network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call

from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.quantizers.inspection.norms_behind import norms_behind, same_answer
from qpatchbench.quantizers.trained.layers import Held, QuantizedLayer, SwitchableBatchNorm, foldable, switch_to
from qpatchbench.types import FLOAT

# Layers and the BatchNorm behind each, by name.
Absorbed = tuple[tuple[str, str], ...]


@contextmanager
def constant(module: nn.Module, absorbed: Absorbed = ()) -> Iterator[None]:
    """No gradient reaches a parameter inside, and no parameter changes.

    Args:
        module: network under training; in eval mode where a BatchNorm is absorbed.
        absorbed: BatchNorms that are folded into the layer before them; see `absorbable`.
    """
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, QuantizedLayer)}
    norms = {layer: _norm(module, norm) for layer, norm in absorbed}
    for parameter in learned:
        parameter.requires_grad_(False)
    for name, layer in layers.items():
        layer.held, layer.activation_quantizer.held = Held(norms.get(name)), {}
    for norm in norms.values():
        norm.absorbed = True
    try:
        yield
    finally:
        for norm in norms.values():
            norm.absorbed = False
        for layer in layers.values():
            layer.held = layer.activation_quantizer.held = None
        for parameter in learned:
            parameter.requires_grad_()


@torch.no_grad()
def absorbable(module: nn.Module, example: torch.Tensor) -> Absorbed:
    """The switchable BatchNorms that the layer before them can absorb without changing an answer.

    Answers are compared with other, random BatchNorms in their place: those of a fresh network change nothing, so that
    folding one wrongly would not show.

    Args:
        module: network under training; left as it is.
        example: images (B, 3, H, W); one is enough, with none nothing is absorbed.
    """
    names = {part: name for name, part in module.named_modules()}
    switchable = [part for part in names if isinstance(part, SwitchableBatchNorm)]
    norms = [norm for norm in switchable if all(map(foldable, norm.at_bits.values()))]
    if not norms or not len(example):
        return ()
    drawn = _drawn_norms(module)
    active = norms[0].active
    switch_to(module, FLOAT)  # rounding would turn a difference in the last bit into one of a whole step

    def answer(absorbed: Absorbed) -> torch.Tensor:
        with constant(module, absorbed):
            logits: torch.Tensor = functional_call(module, drawn, (example,))
        return logits

    try:
        with evaluating(module):
            pairs = tuple(
                (names[layer], names[norm])
                for layer, norm in norms_behind(module, example, norms)
                if isinstance(layer, QuantizedLayer)
            )
            expected = answer(())
            if same_answer(answer(pairs), expected):
                return pairs
            return tuple(pair for pair in pairs if same_answer(answer((pair,)), expected))
    finally:
        switch_to(module, active)


def _norm(module: nn.Module, name: str) -> SwitchableBatchNorm:
    norm = module.get_submodule(name)
    assert isinstance(norm, SwitchableBatchNorm), "absorbable() chose it"
    return norm


def _drawn_norms(module: nn.Module) -> dict[str, torch.Tensor]:
    """Statistics, gains and shifts of every foldable BatchNorm, by name, from 0.5 to 1.5."""
    draws = torch.Generator().manual_seed(0)
    drawn = {}
    for name, part in module.named_modules():
        if foldable(part):
            for own, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
                if tensor.is_floating_point():
                    drawn[f"{name}.{own}"] = (torch.rand(tensor.shape, generator=draws) + 0.5).to(tensor)
    return drawn
