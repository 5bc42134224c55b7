"""Time and memory of a training step: several trainings measured in turn on one machine.

A step is `loop.take_step`, the one that training is made of. It is taken where a curriculum ends, with every bit-width
that it ever activates: the dearest part of the training, not its mean. Times are only comparable within one call, and
ratios of them are what to report.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from qpatchbench.defenses.base import Step
from qpatchbench.errors import UnknownNameError
from qpatchbench.ops.devices import finish, forked_draws
from qpatchbench.ops.randomness import derive_generator, derive_seed
from qpatchbench.statistics.quartiles import quartiles
from qpatchbench.training.loop import Learner, TrainingTask, begun_learner, take_step
from qpatchbench.training.loss_reading import LossReading
from qpatchbench.types import ImageSet

END = 1.0  # of a curriculum, as epoch_fraction


@dataclass(frozen=True)
class Cost:
    """What one optimiser step of a task costs.

    Attributes:
        step_seconds: median over rounds of the mean step of a round.
        step_seconds_low, step_seconds_high: first and third quartile.
        images_per_second: images of a batch per `step_seconds`.
        peak_bytes: most memory that the largest measured step holds at once beyond weights, optimiser state and
            images; its gradients are counted.
        relative_time: median over rounds of this task's time divided by the reference's of the same round.
        relative_time_low, relative_time_high: first and third quartile.
        relative_memory: `peak_bytes` divided by the reference's.
        active_bits: the bit-widths that were active, as a suite writes them, separated by spaces.
    """

    step_seconds: float
    step_seconds_low: float
    step_seconds_high: float
    images_per_second: float
    peak_bytes: int
    relative_time: float
    relative_time_low: float
    relative_time_high: float
    relative_memory: float
    active_bits: str


def measure_costs(
    tasks: Mapping[str, TrainingTask],
    reference: str,
    images: ImageSet,
    calibration: ImageSet,
    *,
    device: torch.device,
    steps: int = 2,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Cost]:
    """Time and memory of a step of every task, relative to one of them.

    Tasks take turns, A, B, C, A, B, C, so that a machine that is slow for a minute is slow for all of them. Nothing
    that is learned is kept, and no task sees the weights of another.

    Args:
        tasks: by name.
        reference: name of the task that the others are compared with.
        images: training images; kept as uint8 on `device`.
        calibration: images that initialise the quantizers.
        device: where to compute; one that knows its peak memory, as cpu and cuda do.
        steps: of every task in a round, in warming up, and under the memory profiler. More than one, because a
            defense may draw the bit-width of each.
        repeats: timed rounds.
        clock: seconds since any start.

    Raises:
        UnknownNameError: no task is called `reference`.
        ValueError: `steps` or `repeats` is less than 1, or the device is another one.
        TrainingError: a loss is not finite.
    """
    if reference not in tasks:
        raise UnknownNameError("reference of costs", reference, tasks)
    if steps < 1 or repeats < 1:
        raise ValueError(f"expected at least 1 step and 1 repeat, found {steps} and {repeats}")
    if device.type != "cpu" and not hasattr(getattr(torch, device.type, None), "max_memory_allocated"):
        raise ValueError(f"expected a device whose memory can be measured, such as cpu or cuda, found {device.type}")
    shared = images.to(device)
    measured = {name: _Measured(begun_learner(task, shared, calibration, device)) for name, task in tasks.items()}
    with forked_draws(device):
        for one in measured.values():
            one.work(steps, device)
        for _ in range(repeats):
            for one in measured.values():
                started = clock()
                one.work(steps, device)
                one.seconds.append((clock() - started) / steps)
        peaks = {name: max(one.peak(device) for _ in range(steps)) for name, one in measured.items()}
    return {name: _cost(one, measured[reference], peaks[name], peaks[reference]) for name, one in measured.items()}


@dataclass
class _Measured:
    """A learner, the steps that it has taken, and its mean seconds per step in every round."""

    learner: Learner
    taken: int = 0
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.learner.module.train()

    @property
    def batch_size(self) -> int:
        return min(len(self.learner.data), self.learner.task.settings.batch_size)

    def step(self) -> Step:
        """The next step, at the end of a curriculum. Equal numbers of steps draw equal numbers in every task."""
        task, index = self.learner.task, self.taken
        active = task.defense.active_bits(END, task.bits)
        return Step(END, active, derive_generator(task.seed, "cost", index), index, task.seed, self.learner.pool)

    def work(self, steps: int, device: torch.device) -> None:
        """Take steps, on images in their order and then from the first again, and wait for the device."""
        reading = LossReading(self.learner.batches)
        for _ in range(steps):
            positions = torch.arange(self.taken * self.batch_size, (self.taken + 1) * self.batch_size, device=device)
            torch.manual_seed(derive_seed(self.learner.task.seed, "cost dropout", self.taken))
            reading.note(take_step(self.learner, positions % len(self.learner.data), self.step()), self.taken)
            self.taken += 1
        reading.sums()
        finish(device)

    def peak(self, device: torch.device) -> int:
        """Bytes that one more step holds at once beyond what is held before it; not timed."""
        # Gradients of the step before would count as held on one device only: the CPU's profiler does not know them.
        self.learner.wrapped.zero_grad()
        gc.collect()
        if device.type != "cpu":
            memory = torch.get_device_module(device)
            memory.reset_peak_memory_stats(device)
            before = int(memory.memory_allocated(device))
            self.work(1, device)
            return int(memory.max_memory_allocated(device)) - before
        # `torch.profiler.profile` would sort all events by operator, which takes longer than the step.
        with _quiet_profiler(), torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profiler:
            self.work(1, device)
        assert profiler.kineto_results is not None, "a profiler that has run holds its records"
        records = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
        held = highest = 0
        for record in sorted(records, key=lambda record: record.start_ns()):
            held += record.nbytes()
            highest = max(highest, held)
        return highest


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Without lines on standard error about its start, and about a GPU that the machine does not have."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ[name] = before or "99"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _cost(one: _Measured, reference: _Measured, peak: int, reference_peak: int) -> Cost:
    low, middle, high = quartiles(one.seconds)
    # Within a round, so that a machine that slows down does not count.
    ratios = quartiles([own / other for own, other in zip(one.seconds, reference.seconds, strict=True)])
    return Cost(
        step_seconds=middle,
        step_seconds_low=low,
        step_seconds_high=high,
        images_per_second=one.batch_size / middle,
        peak_bytes=peak,
        relative_time=ratios[1],
        relative_time_low=ratios[0],
        relative_time_high=ratios[2],
        relative_memory=peak / reference_peak,
        active_bits=" ".join(map(str, one.step().bits)),
    )
