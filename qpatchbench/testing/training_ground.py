"""A short training of a tiny network, through the one loop, and single steps of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from qpatchbench.defenses.base import Batch, Defense, Step
from qpatchbench.ops.pasting import to_float
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.quantizers.qat import Qat
from qpatchbench.testing.ground import SIDE, TinyNet, images_of, seeded, switchable_network
from qpatchbench.training.loop import TrainingTask, train
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.training.snapshot import Snapshot
from qpatchbench.training.switching import Switch
from qpatchbench.types import FLOAT, Bits, ImageSet, Losses, Patch, Untargeted

BITS = (FLOAT, Bits.parse(8), Bits.parse(4))
CPU = torch.device("cpu")
SHORT = TrainingSettings(epochs=2, images_per_epoch=48, batch_size=24, learning_rate=0.02)


class Plain(Defense):
    """Cross-entropy, averaged over the active bit-widths."""

    name: str = "plain"

    def loss(self, network: object, batch: Batch, step: Step) -> Losses:
        """One term."""
        terms = [
            nn.functional.cross_entropy(network.at(bits)(batch.images), batch.labels)  # type: ignore[attr-defined]
            for bits in step.bits
        ]
        return {"clean": torch.stack(terms).mean()}


def groups_of(defense: Defense) -> tuple[tuple[Bits, ...], ...]:
    """The sets of widths that share weights, of 32, 8 and 4; 32 alone for a defense that trains no quantizers."""
    return defense.bit_groups(BITS) if defense.quantization_aware else ((FLOAT,),)


def switch_for(defense: Defense, bits: tuple[Bits, ...], seed: int) -> Switch:
    """A fresh network as the loop prepares it, in training mode."""
    module = seeded(TinyNet, seed)
    if defense.quantization_aware:
        switchable_network(module, seed, bits, Qat(name="qat", bits=bits))
    return WatchedSwitch(module.train(), module, defense.quantization_aware)


class WatchedSwitch(Switch):
    """Remembers which BatchNorm statistics or observers changed while the network was evaluating."""

    moved: tuple[str, ...] = ()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode inside."""
        before = {name: value.clone() for name, value in self.module.named_buffers()}
        with super().evaluating():
            yield
        self.moved += tuple(name for name, value in self.module.named_buffers() if not torch.equal(value, before[name]))


def batch_for(seed: int, count: int = 12) -> Batch:
    """Training images in [0, 1]."""
    images = images_of(seed, count, role="train")
    return Batch(to_float(images.pixels), images.labels)


def step_for(defense: Defense, bits: tuple[Bits, ...], seed: int, index: int = 3, fraction: float = 0.9) -> Step:
    """A step of a training, with every width that is active then."""
    active = defense.active_bits(fraction, bits)
    return Step(fraction, active, derive_generator(seed, "epoch", index), index, seed, pool_for(defense, seed))


def pool_for(defense: Defense, seed: int) -> tuple[Patch, ...]:
    """One patch of a third of the side, for a defense that trains on a pool."""
    if not defense.wants_pool:
        return ()
    side = SIDE // 3
    textures = torch.rand(1, 3, side, side, generator=derive_generator(seed, "pool"))
    return (Patch(textures, torch.ones(1, 1, side, side), (Untargeted(),)),)


def task_for(defense: Defense, bits: tuple[Bits, ...], seed: int, settings: TrainingSettings = SHORT) -> TrainingTask:
    """A training of a fresh network."""
    quantizer = Qat(name="qat", bits=bits) if defense.quantization_aware else None
    return TrainingTask(TinyNet, defense, quantizer, bits, settings, None, seed, pool_for(defense, seed))


def trained(task: TrainingTask, snapshot: Snapshot | None = None) -> tuple[dict[str, torch.Tensor], list[Snapshot]]:
    """The state at the end, and a snapshot after every step."""
    saved: list[Snapshot] = []
    state = train(
        task, training_images(task.seed), images_of(task.seed, 16, role="calibration"), device=CPU, snapshot=snapshot,
        save=saved.append, save_seconds=-1.0,
    )  # fmt: skip
    return state, saved


def training_images(seed: int) -> ImageSet:
    """What is trained on."""
    return images_of(seed, 96, role="train")
