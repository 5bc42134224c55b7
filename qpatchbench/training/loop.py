"""The training loop that every defense shares.

A run is a function of its arguments: every epoch draws from generators derived from (seed, epoch), whose state is part
of a snapshot, so a run that was killed continues from its last snapshot to the very same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric

from qpatchbench.defenses.base import Batch, Defense, Step
from qpatchbench.ops.compilation import compiled
from qpatchbench.ops.devices import forked_draws
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import derive_generator, derive_seed
from qpatchbench.ops.training.augmentation import random_crop, random_flip
from qpatchbench.quantizers.base import Quantizer
from qpatchbench.training.loss_reading import LossReading
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.training.snapshot import Running, Snapshot
from qpatchbench.training.switching import Switch
from qpatchbench.types import Bits, ImageSet, Network, Patch, Progress, silent

SAVE_SECONDS = 300.0


@dataclass(frozen=True)
class TrainingTask:
    """Everything that decides what is learned.

    Attributes:
        build: makes the float architecture, initialised from torch's global generator.
        defense: what is minimised.
        quantizer: the switchable quantizers to train, or None for float training.
        bits: bit-widths that share the weights.
        settings: optimiser and schedule.
        initial: float state dict to start from, or None for fresh weights.
        seed: seed of initial weights, order, augmentation and defense.
        pool: patches to train on, for a defense that wants them.
    """

    build: Callable[[], torch.nn.Module]
    defense: Defense
    quantizer: Quantizer | None
    bits: tuple[Bits, ...]
    settings: TrainingSettings
    initial: Mapping[str, torch.Tensor] | None
    seed: int
    pool: tuple[Patch, ...] = ()


@dataclass(frozen=True)
class EpochLog:
    """Mean of every loss term over one epoch, and its wall time in seconds."""

    epoch: int
    losses: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Learner:
    """A network under training with everything that a step of it needs.

    Attributes:
        task: what is trained.
        module: the network, on its device.
        network: the module as its defense sees it.
        parameters: those that are learned.
        optimizer: of the module's parameters.
        fabric: runs them in the precision that the task asks for.
        forward, wrapped: module and optimiser as Fabric wraps them.
        data: training images, uint8, on the device.
        pool: the task's patches, on the device.
    """

    task: TrainingTask
    module: torch.nn.Module
    network: Switch
    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.SGD
    fabric: Fabric
    forward: torch.nn.Module
    wrapped: torch.optim.Optimizer
    data: ImageSet
    pool: tuple[Patch, ...]

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        settings = self.task.settings
        images = min(len(self.data), settings.images_per_epoch or len(self.data))
        return max(1, images // settings.batch_size)


def train(
    task: TrainingTask,
    images: ImageSet,
    calibration: ImageSet,
    *,
    device: torch.device,
    snapshot: Snapshot | None,
    save: Callable[[Snapshot], None],
    progress: Progress = silent,
    save_seconds: float = SAVE_SECONDS,
) -> dict[str, torch.Tensor]:
    """Train to the end and return the state dict, on the CPU.

    Args:
        task: what to train.
        images: training images; kept as uint8 on `device`.
        calibration: images that initialise the quantizers; disjoint from `images`.
        device: where to compute.
        snapshot: where an earlier, interrupted run of the same task stood.
        save: called after every epoch, and within an epoch every `save_seconds`.
        progress: told the fraction done, the loss terms and the learning rate.
        save_seconds: what an interruption costs at most.

    Raises:
        TrainingError: the loss is not finite; the message names the step and the terms.
    """
    settings = task.settings
    learner = begun_learner(task, images, calibration, device, snapshot)
    module, optimizer, data = learner.module, learner.optimizer, learner.data
    held_out = to_float(calibration.pixels).to(device)
    batches = learner.batches
    total = settings.epochs * batches
    reading = LossReading(batches)
    saved = time.monotonic()
    for epoch in range(snapshot.epochs if snapshot else 0, settings.epochs):
        begun = snapshot.running if snapshot and epoch == snapshot.epochs else None
        started = time.monotonic() - (begun.seconds if begun else 0.0)
        reading.begin(begun.sums if begun else {})
        module.train()
        draws = derive_generator(task.seed, "training", epoch)
        order = torch.randperm(len(data), generator=draws).to(device)
        with forked_draws(device):
            torch.manual_seed(derive_seed(task.seed, "dropout", epoch))  # the only global draws: dropout layers
            if begun is not None:
                begun.restore_draws(draws, device)
            for index in range(begun.steps if begun else 0, batches):
                done, number = (epoch * batches + index) / total, epoch * batches + index
                chosen = order[index * settings.batch_size : (index + 1) * settings.batch_size]
                step = Step(done, task.defense.active_bits(done, task.bits), draws, number, task.seed, learner.pool)
                if number and task.defense.calibrates:
                    known = task.defense.active_bits((number - 1) / total, task.bits)
                    _calibrate(module, tuple(bits for bits in step.bits if bits not in known), held_out)
                reading.note(take_step(learner, chosen, step), number)
                progress(done, {**reading.figures, "lr": settings.learning_rate_at(done)})
                if time.monotonic() - saved > save_seconds and index + 1 < batches:
                    spent = time.monotonic() - started
                    running = Running.of(index + 1, spent, reading.sums(), draws, device)
                    save(Snapshot.of(module, optimizer, epoch, None, running))
                    saved = time.monotonic()
        means = {name: value / batches for name, value in reading.sums().items()}
        log = EpochLog(epoch, means, time.monotonic() - started)
        save(Snapshot.of(module, optimizer, epoch + 1, log))
        saved = time.monotonic()
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def begun_learner(
    task: TrainingTask,
    images: ImageSet,
    calibration: ImageSet,
    device: torch.device,
    snapshot: Snapshot | None = None,
) -> Learner:
    """A network with the weights and momentum that the task or a snapshot of it starts from; arguments as in `train`.

    Quantizers are calibrated. The mode is whatever it is built in: call `module.train()` before the first step.
    """
    settings = task.settings
    module = _prepared(task, calibration, device)
    optimizer = torch.optim.SGD(
        _parameter_groups(module, settings.weight_decay),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
    )
    fabric = Fabric(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=settings.precision,
    )
    if snapshot is not None:
        snapshot.restore(module, optimizer)
    forward, wrapped = fabric.setup(module, optimizer, move_to_device=False)
    example = to_float(calibration.pixels[:1]).to(device)
    plain = _answering(module, fabric)
    answering = _answering(compiled(module), fabric) if settings.compile else plain
    network = Switch(module, answering, task.quantizer is not None, example, plain)
    pool = tuple(patch.to(device) for patch in task.pool)
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Learner(task, module, network, learned, optimizer, fabric, forward, wrapped, images.to(device), pool)


def take_step(learner: Learner, chosen: torch.Tensor, step: Step) -> dict[str, torch.Tensor]:
    """One optimiser step, from images to new weights.

    Args:
        learner: its module is in training mode.
        chosen: (B,) int64, positions of the batch in `learner.data`.
        step: where training stands; augmentation draws from its generator.

    Returns:
        Every loss term, before the update: () without a graph, on the device, for which nobody has waited.
    """
    defense, settings, data = learner.task.defense, learner.task.settings, learner.data
    batch = Batch(_augmented(data.pixels[chosen], settings, step.generator), data.labels[chosen])
    for group in learner.optimizer.param_groups:
        group["lr"] = settings.learning_rate_at(step.epoch_fraction)
    losses = defense.loss(learner.network, batch, step)
    learner.wrapped.zero_grad()
    learner.fabric.backward(torch.stack(list(losses.values())).sum())
    defense.after_backward(learner.parameters, step)
    if settings.gradient_clip is not None:
        learner.fabric.clip_gradients(learner.forward, learner.wrapped, max_norm=settings.gradient_clip)
    learner.wrapped.step()
    return {name: term.detach() for name, term in losses.items()}


def _answering(network: Network, fabric: Fabric) -> Network:
    """Logits as Fabric's wrapped module gives them; that one allows no gradient but by `fabric.backward`."""

    def answer(images: torch.Tensor) -> torch.Tensor:
        with fabric.autocast():
            logits = network(images)
        return logits.float()

    return answer


def _calibrate(module: torch.nn.Module, added: tuple[Bits, ...], images: torch.Tensor) -> None:
    """Scales and BatchNorm statistics of widths that join; no weight changes."""
    if not added:
        return
    from qpatchbench.quantizers.trained.switchable import initialize, recalibrate_batch_norm

    initialize(module, images, added)
    for bits in added:
        recalibrate_batch_norm(module, bits, images)


def _prepared(task: TrainingTask, calibration: ImageSet, device: torch.device) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(task.seed, "initial weights"))
        module = task.build()
    if task.initial is not None:
        module.load_state_dict(task.initial)
    module.to(device)
    # Convolutions are faster this way on CPU and GPU.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations
    if task.quantizer is not None:
        from qpatchbench.quantizers.trained.switchable import initialize, prepare

        prepare(module, task.bits, task.quantizer)
        initialize(module, to_float(calibration.pixels).to(device))
    return module


def _parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Learned quantizer scales are not decayed: shrinking a scale clips, it does not regularise.

    They share the learning rate of the weights. Started at least error, at 2 bits on CIFAR-10, a tenth or ten times of
    it changed the accuracy after 60 steps by less than a point; a hundred times lets scales step over zero.
    """
    scales = [value for name, value in module.named_parameters() if name.rpartition(".")[2].startswith("scale")]
    held = {id(scale) for scale in scales}
    weights = [value for value in module.parameters() if id(value) not in held]
    groups: list[dict[str, object]] = [{"params": weights, "weight_decay": weight_decay}]
    return [*groups, {"params": scales, "weight_decay": 0.0}] if scales else groups


def _augmented(pixels: torch.Tensor, settings: TrainingSettings, draws: torch.Generator) -> torch.Tensor:
    if settings.augmentation != "none":
        pixels = random_crop(pixels, max(1, pixels.shape[-1] // 8), draws)
    if settings.augmentation == "crop_flip":
        pixels = random_flip(pixels, draws)
    return to_float(pixels)
