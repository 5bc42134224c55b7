"""Promises of a defense over a whole training, which the one loop runs on a tiny network."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from qpatchbench.defenses.base import Defense
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.fp import Fp
from qpatchbench.quantizers.qat import Qat
from qpatchbench.testing.fixtures.networks_and_images import CLASSES, TinyNet, images_of
from qpatchbench.testing.fixtures.trainings import SHORT, PlainTraining, groups_of, task_for, trained
from qpatchbench.testing.require import DoesNotApplyError, require, same_state
from qpatchbench.types import Bits

LONGER = SHORT.model_copy(update={"epochs": 4, "images_per_epoch": 96, "learning_rate": 0.05})


def a_resumed_training_ends_the_same(defense: Defense, seed: int) -> None:
    """Killed in the middle of an epoch and resumed from its snapshot, a training ends with the same bits."""
    task = task_for(defense, groups_of(defense)[-1], seed)
    whole, saved = trained(task)
    middle = next(snapshot for snapshot in saved if snapshot.epochs == 1 and snapshot.running is not None)
    again, _ = trained(task, middle)
    different = same_state(whole, again)
    expected = "a resumed training that ends with the same bits; keep no state, draw from step.draws(role)"
    require(not different, defense, expected, f"another value of {different}")
    broken = [name for name, value in whole.items() if not bool(value.float().isfinite().all())]
    require(not broken, defense, "finite weights after a few steps", f"NaN or infinity in {', '.join(broken)}")


def mixed_precision_works(defense: Defense, seed: int) -> None:
    """A training in bfloat16 mixed precision gives finite weights."""
    settings = SHORT.model_copy(update={"epochs": 1, "images_per_epoch": 24, "precision": "bf16-mixed"})
    state, _ = trained(task_for(defense, groups_of(defense)[-1], seed, settings))
    broken = [name for name, value in state.items() if not bool(value.float().isfinite().all())]
    expected = "finite weights after a step in bfloat16; compute differences and norms in float32"
    require(not broken, defense, expected, f"NaN or infinity in {', '.join(broken)}")


def penalties_at_zero_give_the_baseline(defense: Defense, seed: int) -> None:
    """With every penalty weight at zero it is plain training, bit for bit."""
    neutral = defense.baseline()
    if neutral is None:
        raise DoesNotApplyError("it names no `baseline`: no values of its fields make it plain training")
    bits = groups_of(neutral)[-1]
    own, _ = trained(task_for(neutral, bits, seed))
    plain, _ = trained(task_for(_plain_like(neutral), bits, seed))
    different = same_state(own, plain)
    expected = "plain training where every penalty weight is zero: skip a term whose weight is 0, or run its forward "
    require(not different, defense, f"{expected}passes in network.evaluating()", f"another value of {different}")


def the_trained_network_deploys(defense: Defense, seed: int) -> str:
    """What was trained deploys through its quantizer as a plain network; its clean accuracy is reported."""
    bits = groups_of(defense)[-1]
    state, _ = trained(task_for(defense, bits, seed, LONGER))
    plain_state, _ = trained(task_for(_plain_like(defense), bits, seed, LONGER))
    added = sorted(set(state) ^ set(plain_state))
    require(not added, defense, "the tensors of plain training in the checkpoint", f"others: {', '.join(added)}")
    steps = LONGER.epochs * ((LONGER.images_per_epoch or 0) // LONGER.batch_size)
    accuracies = []
    for width in bits:
        own, plain = (_accuracy(defense, kept, bits, width, seed) for kept in (state, plain_state))
        accuracies.append(f"{own:.0f} % at {width} bits, plain training {plain:.0f} %")
    return f"after {steps} steps the toy accuracy is {'; '.join(accuracies)}"


def _accuracy(
    defense: Defense, state: dict[str, torch.Tensor], bits: tuple[Bits, ...], width: Bits, seed: int
) -> float:
    """Percent of 64 new images that the deployed network gets right."""
    quantizer = Qat(name="qat", bits=bits) if defense.quantization_aware else None
    checkpoint = Checkpoint(TinyNet, state, quantizer, bits)
    deployed = (quantizer or Fp(name="fp")).deploy(
        checkpoint, width, to_float(images_of(seed, 16, role="calibration").pixels)
    )
    unseen = images_of(seed, 64, role="unseen")
    with torch.no_grad():
        logits = deployed(to_float(unseen.pixels))
    fine = tuple(logits.shape) == (64, CLASSES) and bool(logits.isfinite().all())
    require(fine, defense, f"finite logits {(64, CLASSES)} of the deployed network", tuple(logits.shape))
    return 100 * float((logits.argmax(dim=1) == unseen.labels).float().mean())


def _plain_like(defense: Defense) -> Defense:
    return PlainTraining() if defense.quantization_aware else _PlainFloat()


class _PlainFloat(PlainTraining):
    quantization_aware: ClassVar[bool] = False


CHECKS: tuple[Callable[[Defense, int], str | None], ...] = (
    a_resumed_training_ends_the_same,
    mixed_precision_works,
    penalties_at_zero_give_the_baseline,
    the_trained_network_deploys,
)
