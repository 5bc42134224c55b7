"""Crafting, evaluation and fake quantization, each beside the bare computation that it cannot avoid."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from qpatchbench.evaluation.measure import patched_predictions
from qpatchbench.ops import compilation
from qpatchbench.ops.crafting.loops import universal_patches
from qpatchbench.ops.crafting.losses import cross_entropy
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import initialize, prepare, set_bits
from qpatchbench.types import Bits, CraftTask, Goal, Network, Patch, Placement, Targeted
from tests.bench.subject import Subject
from tests.bench.timing import Row, alternate, ratio

SIDE, SIZE, BATCH, STEPS = 32, 6, 64, 20
SHORT = 8  # steps where many conditions are tried


def _craft(
    subject: Subject,
    goals: int,
    batch_size: int,
    steps: int,
    rotation: float,
    pool: int = 64,
    *,
    half: bool = False,
    fused: bool = False,
) -> None:
    # A small pool, because held-out images are judged ten times however few the steps are.
    named: tuple[Goal, ...] = tuple(map(Targeted, range(goals)))

    def placer(count: int, generator: torch.Generator) -> Placement:
        return sample_placement(count, (SIDE, SIDE), (SIZE, SIZE), generator, rotation=rotation)

    universal_patches(
        CraftTask((subject.deployed,), named, subject.splits.craft[:pool], torch.Generator().manual_seed(0)),
        side=SIZE, objective=cross_entropy, placer=placer, steps=steps, step_size=0.05, batch_size=batch_size,
        half=half, fused=fused,
    )  # fmt: skip


def _gradients(network: Network, images: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    """Forward pass and input gradient of a frozen network, which crafting cannot avoid."""
    for _ in range(steps):
        inputs = images.clone().requires_grad_()
        torch.autograd.grad(functional.cross_entropy(network(inputs), labels), inputs)


def crafting(subject: Subject) -> list[Row]:
    """A crafting step against forward and input gradient of the same frozen network."""
    images, labels = _batch(subject)
    times = alternate(
        {
            "bare": lambda: _gradients(subject.deployed, images, labels, STEPS),
            "straight": lambda: _craft(subject, 1, BATCH, STEPS, 0),
            "rotated": lambda: _craft(subject, 1, BATCH, STEPS, 22.5),
        }
    )
    meaning = f"per step of {BATCH}; 1 = pasting, drawing and judging cost nothing"
    return [
        Row("crafting / bare gradient", f"{ratio(times, 'straight', 'bare'):.2f} x", f"lavan, {meaning}"),
        Row("crafting / bare gradient, rotated", f"{ratio(times, 'rotated', 'bare'):.2f} x", f"gap, {meaning}"),
    ]


def _batch(subject: Subject) -> tuple[torch.Tensor, torch.Tensor]:
    return to_float(subject.splits.craft.pixels[:BATCH]), subject.splits.craft.labels[:BATCH]


def compiled(subject: Subject) -> list[Row]:
    """Crafting and training with `compile: true`, beside a compiled bare gradient and beside the same uncompiled."""
    images, labels = _batch(subject)
    network = torch.compile(subject.deployed)
    quantized = _switchable(subject, images)
    fused = compilation.compiled(quantized)
    works: dict[str, Callable[[], None]] = {
        "bare": lambda: _gradients(network, images, labels, STEPS),
        "plain": lambda: _craft(subject, 1, BATCH, STEPS, 0),
        "compiled": lambda: _craft(subject, 1, BATCH, STEPS, 0, fused=True),
        "both": lambda: _craft(subject, 1, BATCH, STEPS, 0, half=True, fused=True),
        "training": lambda: _steps(quantized, quantized, images, labels),
        "training, both": lambda: _steps(quantized, fused, images, labels, half=True),
    }
    try:
        times = alternate(works)
    except Exception as error:  # of whichever compiler is not there
        return [Row("compiled", "-", f"torch.compile failed: {type(error).__name__}")]
    gradient, step = "compiled bare gradient in float32", f"a step of {BATCH} at W4A4 without optimiser"
    shown = (
        ("crafting, compiled", "compiled", "bare", f"lavan, beside a {gradient}; aim: at most 1.25"),
        ("crafting, plain", "plain", "bare", f"the same, uncompiled, beside a {gradient}"),
        ("crafting, compiled in bf16", "both", "plain", "beside the same in float32 and uncompiled"),
        ("training, compiled in bf16", "training, both", "training", f"{step}, beside it in float32 and uncompiled"),
    )
    return [Row(name, f"{ratio(times, first, second):.2f} x", meaning) for name, first, second, meaning in shown]


def _switchable(subject: Subject, images: torch.Tensor) -> nn.Module:
    """The network at 4 bits, in training mode."""
    bits = (Bits.parse(4),)
    quantized = copy.deepcopy(subject.plain).requires_grad_()
    prepare(quantized, bits, Qat(name="qat", bits=bits))
    initialize(quantized, images)
    set_bits(quantized, bits[0])
    return quantized.train()


def _steps(
    network: nn.Module, forward: Network, images: torch.Tensor, labels: torch.Tensor, *, half: bool = False
) -> None:
    """Forward and backward passes of four training steps; `forward` is the network, or runs it."""
    for _ in range(4):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = forward(images)
        torch.autograd.backward(functional.cross_entropy(logits.float(), labels))


def threads(subject: Subject) -> list[Row]:
    """Crafting, evaluation and training beside their bare computation: one thread and two, alone and in company."""
    images, labels = _batch(subject)
    quantized, plain = _switchable(subject, images), copy.deepcopy(subject.plain).requires_grad_().train()
    works: dict[str, Callable[[], object]] = {
        "crafting": lambda: _craft(subject, 1, BATCH, SHORT, 0),
        "bare crafting": lambda: _gradients(subject.deployed, images, labels, SHORT),
        "evaluation": _evaluating(subject),
        "bare evaluation": _inferring(subject),
        "W4A4 training": lambda: _steps(quantized, quantized, images, labels),
        "bare W4A4 training": lambda: _steps(plain, plain, images, labels),
    }
    conditions = [(count, beside) for beside in (False, True) for count in (1, 2)]
    before = torch.get_num_threads()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:

        def work(name: str, count: int, beside: bool) -> None:
            torch.set_num_threads(count)
            busy.send_signal(signal.SIGCONT if beside else signal.SIGSTOP)
            works[name]()

        try:
            times = alternate(
                {f"{name} {each}": partial(work, name, *each) for each in conditions for name in works},
                repetitions=2,
            )
        finally:
            busy.kill()
            torch.set_num_threads(before)
    rows = []
    for name in ("crafting", "evaluation", "W4A4 training"):
        alone = f"{name} {conditions[0]}"
        beside_alone = [ratio(times, f"{name} {each}", alone) for each in conditions]
        beside_bare = [ratio(times, f"{name} {each}", f"bare {name} {each}") for each in conditions]
        told = "one thread, two; beside a busy process one, two"
        rows.append(Row(f"{name} / one thread alone", _listed(beside_alone), told))
        rows.append(Row(f"{name} / bare", _listed(beside_bare), "the same four; bare training is in float"))
    return rows


def _listed(ratios: list[float]) -> str:
    return ", ".join(f"{each:.2f}" for each in ratios) + " x"


def goals(subject: Subject) -> list[Row]:
    """Ten goals in one batch against one goal, at equal pasted images per step."""
    times = alternate(
        {"ten": lambda: _craft(subject, 10, 13, 10, 0, 8), "one": lambda: _craft(subject, 1, 130, 10, 0, 8)}
    )
    return [
        Row("10 goals / 1 goal", f"{ratio(times, 'ten', 'one'):.2f} x", "time per pasted image; 1 = goals are free")
    ]


def _evaluating(subject: Subject) -> Callable[[], object]:
    images = subject.splits.evaluation
    patch = Patch(torch.rand(1, 3, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE), (Targeted(0),))
    placement = sample_placement(len(images), (SIDE, SIDE), (SIZE, SIZE), torch.Generator().manual_seed(0))
    return lambda: patched_predictions(subject.deployed, images, patch, placement, 128)


def _inferring(subject: Subject) -> Callable[[], object]:
    batches = torch.split(to_float(subject.splits.evaluation.pixels), 128)

    def inferred() -> None:
        with torch.no_grad():
            for batch in batches:
                subject.deployed(batch).argmax(dim=1)

    return inferred


def evaluation(subject: Subject) -> list[Row]:
    """Patched predictions against bare inference on the same images."""
    times = alternate({"bare": _inferring(subject), "patched": _evaluating(subject)})
    meaning = "1 = decoding, pasting and checking cost nothing"
    return [Row("evaluation / bare inference", f"{ratio(times, 'patched', 'bare'):.2f} x", meaning)]


def fake_quantization(subject: Subject) -> list[Row]:
    """Forward and backward in training mode: float, our switchable quantizers at W4A4, and brevitas at W4A4."""
    images, labels = _batch(subject)
    networks = {
        "float": copy.deepcopy(subject.plain).requires_grad_().train(),
        "ours": _switchable(subject, images),
        "brevitas": _brevitas(copy.deepcopy(subject.plain).requires_grad_()).train(),
    }
    times = alternate({name: partial(_steps, each, each, images, labels) for name, each in networks.items()})
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
