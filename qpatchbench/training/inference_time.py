"""Time of an inference: networks of several trainings as they are deployed, measured in turn on one machine.

What a training minimises does not change what its network computes, unless a defense adds something to it. Times are
only comparable within one call; what to report is the ratio to the reference at the same bit-width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from qpatchbench.errors import UnknownNameError
from qpatchbench.ops.devices import finish
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.statistics.quartiles import quartiles
from qpatchbench.training.loop import TrainingTask, begun_learner
from qpatchbench.types import FLOAT, Bits, ImageSet

PASSES = 10  # of a network in a round


@dataclass(frozen=True)
class Inference:
    """What one forward pass of a deployed network costs.

    Attributes:
        inference_bits: the narrowest bit-width that the network and the reference have in common, as a suite writes it.
        inference_seconds: of one batch, median over rounds.
        relative_inference: median over rounds of this network's time divided by the reference's of the same round.
        relative_inference_low, relative_inference_high: first and third quartile.
    """

    inference_bits: str
    inference_seconds: float
    relative_inference: float
    relative_inference_low: float
    relative_inference_high: float


def measure_inference(
    tasks: Mapping[str, TrainingTask],
    reference: str,
    images: ImageSet,
    calibration: ImageSet,
    *,
    device: torch.device,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Inference]:
    """Time of every task's network, deployed with the weights that it starts from, beside that of one of them.

    Tasks that share no bit-width with the reference are left out.

    Args:
        tasks: by name.
        reference: name of the task that the others are compared with.
        images: whose first batch is passed; uint8.
        calibration: images that initialise the quantizers.
        device: where to compute.
        repeats: timed rounds, each of ten passes of every network.
        clock: seconds since any start.

    Raises:
        UnknownNameError: no task is called `reference`.
    """
    if reference not in tasks:
        raise UnknownNameError("reference of costs", reference, tasks)
    widths = {name: _narrowest(task.bits, tasks[reference].bits) for name, task in tasks.items()}
    shared = {name: bits for name, bits in widths.items() if bits is not None}
    batch = to_float(images.pixels[: tasks[reference].settings.batch_size]).to(device)
    pairs = dict.fromkeys([*shared.items(), *((reference, bits) for bits in shared.values())])
    made = {(name, bits): _deployed(tasks[name], bits, images, calibration, device) for name, bits in pairs}
    seconds: dict[tuple[str, Bits], list[float]] = {pair: [] for pair in made}
    with torch.no_grad():
        for repetition in range(1 + repeats):  # the first warms up
            for pair, network in made.items():
                finish(device)
                started = clock()
                for _ in range(PASSES):
                    network(batch)
                finish(device)
                if repetition:
                    seconds[pair].append((clock() - started) / PASSES)
    found = {}
    for name, bits in shared.items():
        own, against = seconds[name, bits], seconds[reference, bits]
        # Within a round, so that a machine that slows down does not count.
        low, middle, high = quartiles([mine / other for mine, other in zip(own, against, strict=True)])
        found[name] = Inference(str(bits), quartiles(own)[1], middle, low, high)
    return found


def _narrowest(own: tuple[Bits, ...], other: tuple[Bits, ...]) -> Bits | None:
    return min((bits for bits in own if bits in other), key=lambda bits: (bits.weight, bits.activation), default=None)


def _deployed(
    task: TrainingTask, bits: Bits, images: ImageSet, calibration: ImageSet, device: torch.device
) -> torch.nn.Module:
    from qpatchbench.quantizers.frozen.deploying import finished
    from qpatchbench.quantizers.frozen.network import freeze
    from qpatchbench.quantizers.trained.switchable import set_bits

    module = begun_learner(task, images, calibration, device).module
    if task.quantizer is not None:
        set_bits(module, bits)
        freeze(module)
    else:
        assert bits == FLOAT, "a network without quantizers has 32 bits"
    return finished(module, to_float(calibration.pixels[:2]).to(device))
