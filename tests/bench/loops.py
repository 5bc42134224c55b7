"""Crafting, evaluation and fake quantization, each beside the bare computation that it cannot avoid."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from qpatchbench.evaluation.measure import patched_predictions
from qpatchbench.ops.crafting.loops import universal_patches
from qpatchbench.ops.crafting.losses import cross_entropy
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import initialize, prepare, set_bits
from qpatchbench.types import Bits, CraftTask, Goal, Patch, Placement, Targeted
from tests.bench.subject import Subject
from tests.bench.timing import Row, alternate, ratio

SIDE, SIZE, BATCH, STEPS = 32, 6, 64, 20


def _craft(subject: Subject, goals: int, batch_size: int, steps: int, rotation: float, pool: int = 64) -> None:
    # A small pool, because held-out images are judged ten times however few the steps are.
    named: tuple[Goal, ...] = tuple(map(Targeted, range(goals)))

    def placer(count: int, generator: torch.Generator) -> Placement:
        return sample_placement(count, (SIDE, SIDE), (SIZE, SIZE), generator, rotation=rotation)

    universal_patches(
        CraftTask((subject.deployed,), named, subject.splits.craft[:pool], torch.Generator().manual_seed(0)),
        side=SIZE, objective=cross_entropy, placer=placer, steps=steps, step_size=0.05, batch_size=batch_size,
    )  # fmt: skip


def crafting(subject: Subject) -> list[Row]:
    """A crafting step against forward and input gradient of the same frozen network."""
    images = to_float(subject.splits.craft.pixels[:BATCH])
    labels = subject.splits.craft.labels[:BATCH]

    def bare() -> None:
        for _ in range(STEPS):
            inputs = images.clone().requires_grad_()
            torch.autograd.grad(functional.cross_entropy(subject.deployed(inputs), labels), inputs)

    times = alternate(
        {
            "bare": bare,
            "straight": lambda: _craft(subject, 1, BATCH, STEPS, 0),
            "rotated": lambda: _craft(subject, 1, BATCH, STEPS, 22.5),
        }
    )
    meaning = f"per step of {BATCH}; 1 = pasting, drawing and judging cost nothing"
    return [
        Row("crafting / bare gradient", f"{ratio(times, 'straight', 'bare'):.2f} x", f"lavan, {meaning}"),
        Row("crafting / bare gradient, rotated", f"{ratio(times, 'rotated', 'bare'):.2f} x", f"gap, {meaning}"),
    ]


def compiled(subject: Subject) -> list[Row]:
    """A crafting step against forward and input gradient of the same network as `torch.compile` makes it."""
    images = to_float(subject.splits.craft.pixels[:BATCH])
    labels = subject.splits.craft.labels[:BATCH]
    network = torch.compile(subject.deployed)

    def bare() -> None:
        for _ in range(STEPS):
            inputs = images.clone().requires_grad_()
            torch.autograd.grad(functional.cross_entropy(network(inputs), labels), inputs)

    try:
        times = alternate({"bare": bare, "crafting": lambda: _craft(subject, 1, BATCH, STEPS, 0)})
    except Exception as error:  # of whichever compiler is not there
        return [Row("crafting / compiled gradient", "-", f"torch.compile failed: {type(error).__name__}")]
    meaning = f"lavan, per step of {BATCH}, in float32; aim: at most 1.25"
    return [Row("crafting / compiled gradient", f"{ratio(times, 'crafting', 'bare'):.2f} x", meaning)]


def threads(subject: Subject) -> list[Row]:
    """A crafting step with one thread and with two, each alone and beside a process that keeps a core busy."""
    before = torch.get_num_threads()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:

        def work(count: int, beside: bool) -> None:
            torch.set_num_threads(count)
            busy.send_signal(signal.SIGCONT if beside else signal.SIGSTOP)
            _craft(subject, 1, BATCH, STEPS // 2, 0)

        try:
            works = {(count, beside): partial(work, count, beside) for beside in (False, True) for count in (1, 2)}
            times = alternate({_called(*key): each for key, each in works.items()})
        finally:
            busy.kill()
            torch.set_num_threads(before)
    return [
        Row(
            _called(*key),
            f"{ratio(times, _called(*key), _called(1, False)):.2f} x",
            "time of a step, beside one thread alone",
        )
        for key in works
    ]


def _called(count: int, beside: bool) -> str:
    return f"{count} thread{'s' * (count > 1)}{', a busy core' * beside}"


def goals(subject: Subject) -> list[Row]:
    """Ten goals in one batch against one goal, at equal pasted images per step."""
    times = alternate(
        {"ten": lambda: _craft(subject, 10, 13, 10, 0, 8), "one": lambda: _craft(subject, 1, 130, 10, 0, 8)}
    )
    return [
        Row("10 goals / 1 goal", f"{ratio(times, 'ten', 'one'):.2f} x", "time per pasted image; 1 = goals are free")
    ]


def evaluation(subject: Subject) -> list[Row]:
    """Patched predictions against bare inference on the same images."""
    images = subject.splits.evaluation
    batches = torch.split(to_float(images.pixels), 128)
    patch = Patch(torch.rand(1, 3, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE), (Targeted(0),))
    placement = sample_placement(len(images), (SIDE, SIDE), (SIZE, SIZE), torch.Generator().manual_seed(0))

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                subject.deployed(batch).argmax(dim=1)

    times = alternate(
        {"bare": bare, "patched": lambda: patched_predictions(subject.deployed, images, patch, placement, 128)}
    )
    meaning = "1 = decoding, pasting and checking cost nothing"
    return [Row("evaluation / bare inference", f"{ratio(times, 'patched', 'bare'):.2f} x", meaning)]


def fake_quantization(subject: Subject) -> list[Row]:
    """Forward and backward in training mode: float, our switchable quantizers at W4A4, and brevitas at W4A4."""
    images, labels = to_float(subject.splits.craft.pixels[:BATCH]), subject.splits.craft.labels[:BATCH]
    bits = (Bits.parse(4),)
    quantized = copy.deepcopy(subject.plain).requires_grad_()
    prepare(quantized, bits, Qat(name="qat", bits=bits))
    initialize(quantized, images)
    set_bits(quantized, bits[0])
    networks = {
        "float": copy.deepcopy(subject.plain).requires_grad_().train(),
        "ours": quantized.train(),
        "brevitas": _brevitas(copy.deepcopy(subject.plain).requires_grad_()).train(),
    }

    def step(network: nn.Module) -> None:
        for _ in range(4):
            network.zero_grad()
            torch.autograd.backward(functional.cross_entropy(network(images), labels))

    times = alternate({name: (lambda n=network: step(n)) for name, network in networks.items()})  # type: ignore[misc]
    return [
        Row(
            "W4A4 / float, ours", f"{ratio(times, 'ours', 'float'):.2f} x", "time of a training step without optimiser"
        ),
        Row("W4A4 / float, brevitas", f"{ratio(times, 'brevitas', 'float'):.2f} x", "the same, same widths"),
        Row("W4A4, ours / brevitas", f"{ratio(times, 'ours', 'brevitas'):.2f} x", "below 1: ours is faster"),
    ]


def _brevitas(module: nn.Module) -> nn.Module:
    """Convolutions, linear layers and ReLUs replaced by 4-bit ones; weights per channel; same weights."""
    from brevitas import nn as quantized
    from brevitas.quant import Int8WeightPerChannelFloat

    weights = {"weight_bit_width": 4, "weight_quant": Int8WeightPerChannelFloat}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            replacement: nn.Module
            if isinstance(child, nn.Conv2d):
                replacement = quantized.QuantConv2d(
                    child.in_channels, child.out_channels, child.kernel_size, stride=child.stride,
                    padding=child.padding, bias=child.bias is not None, **weights,
                )  # fmt: skip
            elif isinstance(child, nn.Linear):
                replacement = quantized.QuantLinear(child.in_features, child.out_features, bias=True, **weights)
            elif isinstance(child, nn.ReLU):
                replacement = quantized.QuantReLU(bit_width=4)
            else:
                continue
            replacement.load_state_dict(child.state_dict(), strict=False)
            setattr(parent, name, replacement)
    return module
