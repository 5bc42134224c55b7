"""Kernels of a training step, and images per second beside loops that do nothing else."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from qpatchbench.defenses.base import Defense, Step
from qpatchbench.models.cifar import CifarModel
from qpatchbench.ops.crafting.loops import universal_patches
from qpatchbench.ops.crafting.losses import cross_entropy
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.quantizers.qat import Qat
from qpatchbench.registry import DEFENSES
from qpatchbench.training.loop import Learner, TrainingTask, begun_learner, take_step
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, Bits, CraftTask, ImageSet, Placement, Untargeted

BITS = tuple(Bits.parse(bits) for bits in (32, 8, 5, 4, 2))
BATCH, STEPS, SIDE = 128, 8, 6
COUNTED = ("qat", "pbat", "qadtr", "triqdef")


def images(count: int = 1024) -> ImageSet:
    """Noise of CIFAR-10's shape: what it shows does not matter for time."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=draws, dtype=torch.uint8)
    return ImageSet(pixels, torch.randint(10, (count,), generator=draws), tuple(map(str, range(count))))


def learner(name: str, model: str, device: torch.device) -> Learner:
    """A network about to be trained by a defense at its defaults."""
    source = CifarModel(name=model)
    own = {"patches": "on_the_fly"} if name == "triqdef" else {}  # it has no pool here
    defense: Defense = DEFENSES.get(name)(name=name, **own)
    bits = defense.bit_groups(BITS)[-1] if defense.quantization_aware else (FLOAT,)
    quantizer = Qat(name="qat", bits=bits) if defense.quantization_aware else None
    settings = TrainingSettings(epochs=1, batch_size=BATCH, learning_rate=0.01)
    task = TrainingTask(lambda: source.build(10, 32), defense, quantizer, bits, settings, None, 0)
    made = begun_learner(task, images(), images(64), device)
    made.module.train()
    return made


def taken(made: Learner, first: int, steps: int) -> None:
    """Some steps at the end of a curriculum."""
    task, device = made.task, made.data.pixels.device
    for index in range(first, first + steps):
        chosen = torch.arange(BATCH, device=device) + (index * BATCH) % (len(made.data) - BATCH)
        active = task.defense.active_bits(1.0, task.bits)
        take_step(made, chosen, Step(1.0, active, derive_generator(0, "speed", index), index, 0, made.pool))


def kernels(device: torch.device, data_dir: Path) -> bool:
    """Kernels that one step of ResNet-56 launches, counted by the profiler."""
    for name in COUNTED:
        made = learner(name, "resnet56", device)
        taken(made, 0, 2)
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profiler:
            taken(made, 2, 1)
            torch.cuda.synchronize(device)
        events = [event for event in profiler.events() if event.device_type.name == "CUDA"]
        own = [event for event in events if not event.name.startswith(("Memcpy", "Memset"))]
        busy = sum(event.device_time for event in own) / 1e3
        waits = sum(event.name in ("cudaStreamSynchronize", "cudaDeviceSynchronize") for event in profiler.events())
        print(f"  {name}: {len(own)} kernels, {busy:.0f} ms of them, {waits} waits of the host")
    return True


def rate(work: Callable[[], None], passes: int, device: torch.device) -> float:
    """Images per second: the median of five repetitions after one that is not counted."""
    found = []
    for repetition in range(6):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        if repetition:
            found.append(passes / (time.perf_counter() - started))
    return statistics.median(found)


def beside_bare_loops(device: torch.device, data_dir: Path) -> bool:
    """Float training, joint training and crafting, each beside its forward and backward passes alone."""
    plain = learner("none", "resnet20", device)
    batch = to_float(plain.data.pixels[:BATCH])
    labels = plain.data.labels[:BATCH]
    optimizer = torch.optim.SGD(plain.module.parameters(), 0.01, momentum=0.9)

    def bare_training() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            functional.cross_entropy(plain.module(batch), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    bare = rate(bare_training, STEPS * BATCH, device)
    print(f"  bare training of ResNet-20, batches of {BATCH}: {bare:,.0f} images per second")
    for name in ("none", *COUNTED):
        made = learner(name, "resnet20", device)
        passes = made.task.defense.passes(made.task.bits) / 3
        found = rate(lambda made=made: taken(made, 0, STEPS), STEPS * BATCH, device)  # type: ignore[misc]
        print(
            f"  {name}: {found:,.0f} images per second, {bare / found / passes:.2f} times its {passes:.1f} bare steps"
        )

    network = plain.module.eval().requires_grad_(False)
    inputs = batch.clone().requires_grad_()

    def bare_gradients() -> None:
        for _ in range(10 * STEPS):
            torch.autograd.grad(functional.cross_entropy(network(inputs), labels), inputs)

    def placer(count: int, generator: torch.Generator) -> Placement:
        return sample_placement(count, (32, 32), (SIDE, SIDE), generator)

    def crafting() -> None:
        universal_patches(
            CraftTask((network,), (Untargeted(),), plain.data[:256], torch.Generator().manual_seed(0)),
            side=SIDE, objective=cross_entropy, placer=placer, steps=10 * STEPS, step_size=0.05, batch_size=BATCH,
        )  # fmt: skip

    times = [rate(work, 10 * STEPS * BATCH, device) for work in (bare_gradients, crafting)]
    print(f"  crafting: {times[1]:,.0f} images per second, {times[0] / times[1]:.2f} times the bare gradient")
    return True
