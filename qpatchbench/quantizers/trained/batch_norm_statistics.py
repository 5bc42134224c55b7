"""Running statistics of BatchNorm, estimated on held-out images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from qpatchbench.quantizers.inspection.inputs import evaluating
from qpatchbench.quantizers.trained.layers import SwitchableBatchNorm


def active_batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms, with running statistics, that the next forward pass will use."""
    inner = {
        norm for part in module.modules() if isinstance(part, SwitchableBatchNorm) for norm in part.at_bits.values()
    }
    chosen = {part.current() for part in module.modules() if isinstance(part, SwitchableBatchNorm)}
    return [
        part
        for part in module.modules()
        if isinstance(part, _BatchNorm) and part.track_running_stats and (part not in inner or part in chosen)
    ]


@torch.no_grad()
def estimate_statistics(module: nn.Module, norms: list[_BatchNorm], batches: Iterable[torch.Tensor]) -> None:
    """Replace the running statistics of `norms` by their mean over batches; everything else stays in eval mode."""
    momenta = [norm.momentum for norm in norms]
    with evaluating(module):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a cumulative mean
            norm.training = True
        for images in batches:
            module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@contextmanager
def plausible_statistics(module: nn.Module, batches: Iterable[torch.Tensor]) -> Iterator[None]:
    """Inside, BatchNorms that were never trained have the statistics of `batches`; afterwards their own again.

    Training normalises by the batch from the first step on. Scales observed under the placeholders 0 and 1 of a
    fresh network would be off by orders of magnitude, and clip away every gradient.
    """
    fresh = [norm for norm in active_batch_norms(module) if _is_placeholder(norm)]
    kept = [{name: value.clone() for name, value in norm.named_buffers()} for norm in fresh]
    if fresh:
        estimate_statistics(module, fresh, batches)
    try:
        yield
    finally:
        for norm, values in zip(fresh, kept, strict=True):
            for name, value in values.items():
                norm.get_buffer(name).copy_(value)


def _is_placeholder(norm: _BatchNorm) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not bool(mean.any()) and bool((variance == 1).all())
