"""A network under training while its parameters are constants, as an attack within a training step sees it.

Weights are quantized once per bit-width, not in each pass, and BatchNorm in eval mode is folded into the layer before
it, as in a deployed network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from qpatchbench.quantizers.inspection.norms_behind import norms_behind, same_answer
from qpatchbench.quantizers.trained.layers import Held, QuantizedLayer, SwitchableBatchNorm, affine, foldable, switch_to
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

    They are found on a copy whose BatchNorms are drawn at random: those of a fresh network change nothing, so that
    folding one wrongly would not show.

    Args:
        module: network under training; left as it is.
        example: images (B, 3, H, W); one is enough, with none nothing is absorbed.
    """
    if not len(example):
        return ()
    probe = copy.deepcopy(module).eval()
    switch_to(probe, FLOAT)  # rounding would turn a difference in the last bit into one of a whole step
    _draw_norms(probe)
    names = {part: name for name, part in probe.named_modules()}
    norms = [
        part for part in names if isinstance(part, SwitchableBatchNorm) and all(map(foldable, part.at_bits.values()))
    ]
    pairs = tuple(
        (names[layer], names[norm])
        for layer, norm in norms_behind(probe, example, norms)
        if isinstance(layer, QuantizedLayer)
    )

    def answer(absorbed: Absorbed) -> torch.Tensor:
        with constant(probe, absorbed):
            logits: torch.Tensor = probe(example)
        return logits

    expected = answer(())
    if same_answer(answer(pairs), expected):
        return pairs
    return tuple(pair for pair in pairs if same_answer(answer((pair,)), expected))


def _norm(module: nn.Module, name: str) -> SwitchableBatchNorm:
    norm = module.get_submodule(name)
    assert isinstance(norm, SwitchableBatchNorm), "absorbable() chose it"
    return norm


def _draw_norms(module: nn.Module) -> None:
    draws = torch.Generator().manual_seed(0)
    for part in module.modules():
        if foldable(part):
            found = affine(part)
            for tensor in (found.mean, found.variance, found.gain, found.shift):
                if tensor is not None:
                    tensor.copy_(torch.rand(tensor.shape, generator=draws) + 0.5)
