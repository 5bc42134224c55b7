"""A few seconds of passes of every model of a suite, which tell how fast a device is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from qpatchbench.models.base import ModelSource
from qpatchbench.ops.compilation import compiled
from qpatchbench.ops.devices import finish
from qpatchbench.quantizers.trained.switchable import initialize, prepare, set_bits
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.plan.paces import COMPILING, MEASURED, Load
from qpatchbench.types import Network

PASSES = 3  # of one image: a forward, and a backward that counts as two
SECONDS = 1.0  # for each network, at least two steps
_PIXELS = 128 * 32 * 32  # of a batch: 128 images of CIFAR-10, two of ImageNet


def measured(
    suite: Suite, device: torch.device, told: Callable[[str], None], *, fused: bool = False
) -> dict[Load, float]:
    """Seconds per pass of every model, in float and, where the suite trains quantizers, with fake quantizers.

    Each is measured in float32 and in bfloat16, as `precision` lets training and crafting choose.

    Args:
        suite: its models are built with random weights.
        device: where to compute.
        told: called with the title of each network before it is measured.
        fused: compiled as well, which takes a minute for each network; what compiling took is kept, too.

    Raises:
        QPatchBenchError: nothing can compile here.
    """
    found = {}
    for model in suite.models:
        for quantized, network in _networks(suite, model, device):
            told(f"{model.title}, {'fake quantizers' if quantized else 'float'}")
            load = Load(MEASURED, model.title, quantized)
            for half in (False, True):
                _, pace = _pace(network, network, suite.dataset.side, device, half)
                found[load._replace(half=half)] = pace
                if fused:
                    first, pace = _pace(network, compiled(network), suite.dataset.side, device, half)
                    found[load._replace(half=half, fused=True)] = pace
                    found[load._replace(kind=COMPILING, half=half, fused=True)] = first
    return found


def _networks(suite: Suite, model: ModelSource, device: torch.device) -> Iterator[tuple[bool, torch.nn.Module]]:
    side = suite.dataset.side
    with torch.random.fork_rng(devices=[]):
        network = model.build(suite.dataset.num_classes, side).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations
    yield False, network
    trained = [quantizer for quantizer in suite.quantizers if quantizer.trained]
    widths = [bits for quantizer in trained[:1] for bits in quantizer.bits if not bits.is_float]
    if widths:
        prepare(network, tuple(widths[:1]), trained[0])
        initialize(network, torch.rand(2, 3, side, side, device=device))
        set_bits(network, widths[0])
        yield True, network


def _pace(
    network: torch.nn.Module, forward: Network, side: int, device: torch.device, half: bool
) -> tuple[float, float]:
    """Seconds of the first step, and of a pass in those that follow."""
    batch = max(2, _PIXELS // side**2)
    images = torch.rand(batch, 3, side, side, device=device)
    network.train()

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = forward(images)
        torch.autograd.backward(logits.float().logsumexp(1).sum())
        finish(device)
        return time.perf_counter() - started

    first = step()  # it also compiles and allocates
    taken = [step(), step()]
    while sum(taken) < SECONDS:
        taken.append(step())
    return first, sum(taken) / (len(taken) * batch * PASSES)
