"""`gap` beside AdversarialPatchPyTorch of the adversarial-robustness-toolbox: the same network, images, target, number
of images seen, patch area, rotation and learning rate. Both patches are evaluated by our harness at the same places.

Three properties of that class decide its configuration. A patch of s x s is asked for by its scale, s / image side,
not by `patch_shape`; a circle would paint less than half of a 6 x 6 square; and a location would be (column, row), so
none is given.
"""  # noqa: D205 (one sentence, two lines)

from __future__ import annotations

import logging
import time
import warnings
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np
import torch

from qpatchbench.attacks.gap import Gap
from qpatchbench.evaluation.measure import clean_predictions, count_outcomes, patched_predictions
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.types import CraftTask, ImageSet, Patch, Targeted
from tests.bench.subject import Subject
from tests.bench.timing import Row

SIZE, SIDE, BATCH, TARGET, ROTATION, STEP = 6, 32, 64, 3, 22.5, 0.05
EPOCHS = 40  # over the crafting images; the same number of images for both
SHORT = 6  # epochs where only the speed is looked at
SEEDS = (0, 1)
PLACES = 4  # draws of evaluation places


def ours(network: torch.nn.Module, images: ImageSet, seed: int, epochs: int) -> Patch:
    """The patch of `gap`."""
    return _crafted(Gap(**_settings(images, epochs)), network, images, seed)


def ours_in_half(network: torch.nn.Module, images: ImageSet, seed: int, epochs: int) -> Patch:
    """The patch of `gap` with steps in bfloat16."""
    return _crafted(Gap(**_settings(images, epochs), precision="bf16-mixed"), network, images, seed)


def _settings(images: ImageSet, epochs: int) -> dict[str, Any]:
    steps = epochs * len(images) // BATCH
    return {
        "name": "gap",
        "size": SIZE,
        "steps": steps,
        "batch_size": BATCH,
        "step_size": STEP,
        "rotation": ROTATION,
    }


def _crafted(attack: Gap, network: torch.nn.Module, images: ImageSet, seed: int) -> Patch:
    return attack.craft(CraftTask((network,), (Targeted(TARGET),), images, torch.Generator().manual_seed(seed)))


def theirs(network: torch.nn.Module, images: ImageSet, seed: int, epochs: int) -> Patch:
    """The patch of the toolbox; it draws from numpy's global generator, and torch's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        from art.attacks.evasion import AdversarialPatchPyTorch
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            network, torch.nn.CrossEntropyLoss(), (3, SIDE, SIDE), 10, clip_values=(0, 1), device_type="cpu"
        )
        attack = AdversarialPatchPyTorch(
            classifier, rotation_max=ROTATION, scale_min=SIZE / SIDE - 1e-6, scale_max=SIZE / SIDE, learning_rate=STEP,
            max_iter=epochs, batch_size=BATCH, patch_shape=(3, SIZE, SIZE), patch_type="square", optimizer="Adam",
            targeted=True, verbose=False,
        )  # fmt: skip
        np.random.seed(seed)  # noqa: NPY002 (what the toolbox draws from)
        torch.manual_seed(seed)
        pixels = images.pixels.numpy().astype(np.float32) / 255
        texture, _ = attack.generate(pixels, np.full(len(images), TARGET))
        logging.disable(logging.NOTSET)
    textures = torch.from_numpy(np.asarray(texture, dtype=np.float32))[None]
    return Patch(textures, torch.ones(1, 1, SIZE, SIZE), (Targeted(TARGET),))


class Rates(NamedTuple):
    """Percent of the eligible evaluation images, over all draws of places."""

    targeted: float
    fooled: float


def rates(subject: Subject, patch: Patch) -> Rates:
    """How often the patch yields the target, and how often anything but the label."""
    images = subject.splits.evaluation
    clean = clean_predictions(subject.deployed, images, 128).numpy()
    eligible = hit = fooled = 0
    for draw in range(PLACES):
        placement = sample_placement(len(images), (SIDE, SIDE), (SIZE, SIZE), derive_generator(draw, "bench placement"))
        patched = patched_predictions(subject.deployed, images, patch, placement, 128).numpy()
        (counts,) = count_outcomes(images.labels.numpy(), clean, patched, patch.goals)
        eligible, hit, fooled = eligible + counts.n_eligible, hit + counts.n_hit, fooled + counts.n_fooled
    return Rates(100 * hit / eligible, 100 * fooled / eligible)


def compare(subject: Subject) -> list[Row]:
    """Throughput and targeted ASR of both."""
    images = subject.splits.craft[:256]
    seen = EPOCHS * len(images)
    ours(subject.deployed, images, 0, 2)
    theirs(subject.plain, images, 0, 1)
    patches: dict[str, list[Patch]] = {}
    speed: dict[str, list[float]] = {"ours": [], "half": [], "theirs": [], "on ours": []}
    for seed in SEEDS:
        for name, craft, network, epochs in (
            ("ours", ours, subject.deployed, EPOCHS),
            ("half", ours_in_half, subject.deployed, EPOCHS),
            ("theirs", theirs, subject.plain, EPOCHS),
            ("on ours", theirs, subject.deployed, SHORT),
        ):
            started = time.perf_counter()
            patch = craft(network, images, seed, epochs)
            speed[name].append(epochs * len(images) / (time.perf_counter() - started))
            patches.setdefault(name, []).append(patch)
    generator = derive_generator(0, "bench control")
    noise = Patch(torch.rand(1, 3, SIZE, SIZE, generator=generator), torch.ones(1, 1, SIZE, SIZE), (Targeted(TARGET),))
    found = {name: [rates(subject, patch) for patch in patches[name]] for name in ("ours", "half", "theirs")}
    found["noise"] = [rates(subject, noise)]
    asr = {name: Rates(*(mean(column) for column in zip(*rows, strict=True))) for name, rows in found.items()}
    gain = median(a / b for a, b in zip(speed["ours"], speed["theirs"], strict=True))
    half = median(a / b for a, b in zip(speed["half"], speed["theirs"], strict=True))
    same = median(a / b for a, b in zip(speed["ours"], speed["on ours"], strict=True))
    described = f"{seen} images seen, target {TARGET}, {SIZE}x{SIZE}, mean of {len(SEEDS)} seeds"
    return [
        Row("gap: asr_targeted, asr", _both(asr["ours"]), described),
        Row("gap in bf16-mixed", _both(asr["half"]), "the same with steps in bfloat16"),
        Row("ART: asr_targeted, asr", _both(asr["theirs"]), "same network, images, places; gap should not be below"),
        Row("random patch", _both(asr["noise"]), "what occlusion alone does"),
        Row("gap: throughput", f"{median(speed['ours']):.0f} images/s", "crafting, everything included"),
        Row("ART: throughput", f"{median(speed['theirs']):.0f} images/s", "on the network as trained"),
        Row("gap / ART", f"{gain:.2f} x", "in float32"),
        Row("gap in bf16-mixed / ART", f"{half:.2f} x", "aim: 3 or more"),
        Row("gap / ART on our folded network", f"{same:.2f} x", "what is not due to folding BatchNorm"),
    ]


def _both(asr: Rates) -> str:
    return f"{asr.targeted:.1f}, {asr.fooled:.1f} %"
