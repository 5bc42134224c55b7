"""`gap` and `lavan` beside plain Adam loops and AdversarialPatchPyTorch of the adversarial-robustness-toolbox: the same
network, images, targets, number of images seen, patch area and learning rate. Plain loops are the second
implementations of V14. All patches are evaluated by our harness at the same places.

Three properties of that class decide its configuration. A patch of s x s is asked for by its scale, s / image side,
not by `patch_shape`; a circle would paint less than half of a 6 x 6 square; and a location would be (column, row), so
none is given.
"""  # noqa: D205 (one sentence, two lines)

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch

from qpatchbench.attacks.gap import Gap
from qpatchbench.attacks.lavan import Lavan
from qpatchbench.attacks.universal import UniversalAttack
from qpatchbench.evaluation.measure import clean_predictions, count_outcomes, patched_predictions
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.testing.reference_attacks import PlainGap, PlainLavan
from qpatchbench.types import CraftTask, ImageSet, Patch, Targeted
from tests.bench.subject import Subject
from tests.bench.timing import Row, ratio

SIZE, SIDE, BATCH, STEP = 6, 32, 32, 0.05
TARGETS = tuple(range(10))
EPOCHS = 16  # over the crafting images, 4,096 in all; the same number of images for all
SHORT = 6  # epochs where speed is what matters
THREE = (5, 6, 8)  # targets of those: on digits, the three that are easiest for both
PLACES = 2  # draws of evaluation places


def ours(
    kind: type[UniversalAttack],
    network: torch.nn.Module,
    images: ImageSet,
    epochs: int = EPOCHS,
    targets: tuple[int, ...] = TARGETS,
    **fields: Any,  # noqa: ANN401 (fields of a component)
) -> Patch:
    """The patches of one of our attacks, or of a plain loop, one per target."""
    steps = epochs * len(images) // BATCH
    named = {"name": "ours", "size": SIZE, "targets": targets, "steps": steps, "batch_size": BATCH, "step_size": STEP}
    attack = kind.model_validate({**named, **fields})
    return attack.craft(CraftTask((network,), attack.goals(len(TARGETS)), images, torch.Generator().manual_seed(0)))


def theirs(network: torch.nn.Module, images: ImageSet, target: int, epochs: int = EPOCHS) -> Patch:
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
            classifier, rotation_max=0, scale_min=SIZE / SIDE - 1e-6, scale_max=SIZE / SIDE, learning_rate=STEP,
            max_iter=epochs, batch_size=BATCH, patch_shape=(3, SIZE, SIZE), patch_type="square", optimizer="Adam",
            targeted=True, verbose=False,
        )  # fmt: skip
        np.random.seed(0)  # noqa: NPY002 (what the toolbox draws from)
        torch.manual_seed(0)
        pixels = images.pixels.numpy().astype(np.float32) / 255
        texture, _ = attack.generate(pixels, np.full(len(images), target))
        logging.disable(logging.NOTSET)
    textures = torch.from_numpy(np.asarray(texture, dtype=np.float32))[None]
    return Patch(textures, torch.ones(1, 1, SIZE, SIZE), (Targeted(target),))


def rates(subject: Subject, patch: Patch) -> list[float]:
    """How often each goal's patch yields its target, percent of the eligible images, over all draws of places."""
    images = subject.splits.evaluation
    labels, clean = images.labels.numpy(), clean_predictions(subject.deployed, images, 128).numpy()
    hit, eligible = np.zeros(len(patch.goals)), np.zeros(len(patch.goals))
    for draw in range(PLACES):
        placement = sample_placement(len(images), (SIDE, SIDE), (SIZE, SIZE), derive_generator(draw, "bench placement"))
        patched = patched_predictions(subject.deployed, images, patch, placement, 128).numpy()
        counts = count_outcomes(labels, clean, patched, patch.goals)
        hit += [count.n_hit for count in counts]
        eligible += [count.n_eligible for count in counts]
    found: list[float] = (100 * hit / eligible).tolist()
    return found


def strength(subject: Subject) -> list[Row]:
    """Targeted ASR of all, on the five targets that are easiest for all together, and on the five hardest."""
    images = subject.splits.craft[:256]
    kinds: dict[str, type[UniversalAttack]] = {
        "gap": Gap, "plain gap": PlainGap, "lavan": Lavan, "plain lavan": PlainLavan,
    }  # fmt: skip
    found = {name: rates(subject, ours(kind, subject.deployed, images)) for name, kind in kinds.items()}
    found["ART"] = [value for target in TARGETS for value in rates(subject, theirs(subject.plain, images, target))]
    noise = torch.rand(len(TARGETS), 3, SIZE, SIZE, generator=derive_generator(0, "bench control"))
    found["random patch"] = rates(subject, Patch(noise, torch.ones_like(noise[:, :1]), tuple(map(Targeted, TARGETS))))
    # Ranked by one of them, the others would look weaker where it was lucky.
    ranked = sorted(TARGETS, key=lambda target: -sum(each[target] for each in found.values()))
    easy, hard = ranked[: len(ranked) // 2], ranked[len(ranked) // 2 :]
    meaning = f"asr_targeted on targets {easy} and {hard}; each from {EPOCHS * len(images)} images, {SIZE}x{SIZE}"
    rows = [Row(name, _groups(each, easy, hard), meaning) for name, each in found.items()]
    for own, other in (("gap", "plain gap"), ("gap", "ART"), ("lavan", "plain lavan"), ("lavan", "ART")):
        quotients = [sum(found[own][t] for t in group) / sum(found[other][t] for t in group) for group in (easy, hard)]
        value = f"{quotients[0]:.2f}, {quotients[1]:.2f} x"
        rows.append(Row(f"{own} / {other}", value, "on the five easiest and the five hardest; aim: 1 or more"))
        differences = [found[own][target] - found[other][target] for target in TARGETS]
        half = 2.26 * stdev(differences) / len(TARGETS) ** 0.5  # Student's t, 9 degrees of freedom
        rows.append(Row(f"{own} - {other}", f"{mean(differences):+.1f} ± {half:.1f}", "points, over all ten targets"))
    return rows


def _groups(each: list[float], *groups: list[int]) -> str:
    return ", ".join(f"{mean(each[target] for target in group):.1f}" for group in groups) + " %"


def speed(subject: Subject) -> list[Row]:
    """Processor seconds of crafting, everything included, and what the patches of three targets yield."""
    images = subject.splits.craft[:256]
    works: dict[str, Callable[[int, int], Patch]] = {
        "gap": lambda target, epochs: ours(Gap, subject.deployed, images, epochs, (target,)),
        "gap in bf16-mixed": lambda target, epochs: ours(
            Gap, subject.deployed, images, epochs, (target,), precision="bf16-mixed"
        ),
        "gap in bf16-mixed, compiled": lambda target, epochs: ours(
            Gap, subject.deployed, images, epochs, (target,), precision="bf16-mixed", compile=True
        ),
        "ART": lambda target, epochs: theirs(subject.plain, images, target, epochs),
        "ART on our folded network": lambda target, epochs: theirs(subject.deployed, images, target, epochs),
    }
    for work in works.values():
        work(THREE[0], 1)
    spent: dict[str, list[float]] = {name: [] for name in works}
    yielded: dict[str, list[float]] = {name: [] for name in works}
    for target in THREE:
        for name, work in works.items():
            started = time.process_time()
            patch = work(target, SHORT)
            spent[name].append(time.process_time() - started)
            yielded[name] += rates(subject, patch)
    noise = torch.rand(len(THREE), 3, SIZE, SIZE, generator=derive_generator(0, "bench control"))
    control = rates(subject, Patch(noise, torch.ones_like(noise[:, :1]), tuple(map(Targeted, THREE))))
    seen = SHORT * len(images)
    return [
        *(
            Row(name, f"{1e3 * median(spent[name]) / seen:.2f} ms", "processor time per image, everything included")
            for name in works
        ),
        Row("gap / ART", f"{ratio(spent, 'ART', 'gap'):.2f} x", "in float32, processor time, as below"),
        Row("gap in bf16-mixed / ART", f"{ratio(spent, 'ART', 'gap in bf16-mixed'):.2f} x", "aim: 3 or more"),
        Row(
            "gap in bf16-mixed, compiled / ART",
            f"{ratio(spent, 'ART', 'gap in bf16-mixed, compiled'):.2f} x",
            "compiled before; aim: 5 or more",
        ),
        Row(
            "gap / ART on our folded network",
            f"{ratio(spent, 'ART on our folded network', 'gap'):.2f} x",
            "not due to BatchNorm",
        ),
        *(
            Row(f"asr_targeted of {name}", f"{mean(found):.1f} %", f"targets {THREE}; each from {seen} images")
            for name, found in {**yielded, "a random patch": control}.items()
        ),
    ]
