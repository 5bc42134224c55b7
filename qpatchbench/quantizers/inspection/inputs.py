"""Inputs of a network's layers on held-out images, in order of execution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.trained.layers import quantizable

Measure = Callable[[torch.Tensor], torch.Tensor]

BATCH_SIZE = 64


@dataclass
class Seen:
    """Running figures of one layer's inputs.

    Attributes:
        lowest: smallest value.
        measures: by name, one tensor per call, of one shape.
    """

    lowest: float = 0.0
    measures: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    @property
    def signed(self) -> bool:
        """Whether any input was negative."""
        return self.lowest < 0

    def mean(self, name: str) -> torch.Tensor:
        """Mean of a measure over batches, float32 of the measure's shape."""
        return torch.stack(self.measures[name]).mean(0)


@torch.no_grad()
def observe_inputs(
    module: nn.Module,
    batches: Iterable[torch.Tensor],
    measures: Callable[[str], dict[str, Measure]],
) -> dict[str, Seen]:
    """Run `batches` in eval mode and measure the input of every quantizable layer.

    Args:
        module: left in the mode it came in.
        batches: images (B, 3, H, W).
        measures: per layer name, what to measure on each of its inputs, by name.

    Returns:
        One entry per layer, in order of first execution.

    Raises:
        QPatchBenchError: a layer never ran, or there were no images.
    """
    seen: dict[str, Seen] = {}
    names = {layer: name for name, layer in quantizable(module)}

    def look(layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        inputs, name = arguments[0], names[layer]
        entry = seen.setdefault(name, Seen())
        entry.lowest = min(entry.lowest, float(inputs.min()))
        for key, measure in measures(name).items():
            entry.measures.setdefault(key, []).append(measure(inputs))

    hooks = [layer.register_forward_pre_hook(look) for layer in names]
    try:
        with evaluating(module):
            for images in batches:
                module(images)
    finally:
        for hook in hooks:
            hook.remove()
    idle = [name for name in names.values() if name not in seen]
    if idle:
        raise QPatchBenchError(
            f"{len(idle)} of {len(names)} layers never ran on the calibration images, first {idle[0]!r}; expected at "
            "least one image and a network that calls every convolution and linear layer in eval mode. An attention "
            "that hands the layer's weight to a function, instead of calling it, cannot be quantized"
        )
    return seen


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; every submodule's own mode restored afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def in_batches(images: torch.Tensor, size: int = BATCH_SIZE) -> tuple[torch.Tensor, ...]:
    """Split (N, 3, H, W); nothing for N = 0."""
    return torch.split(images, size) if len(images) else ()
