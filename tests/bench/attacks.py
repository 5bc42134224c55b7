"""What attacks cost: passes and seconds per image, and what working on many images at once saves."""

from __future__ import annotations

from typing import Any

import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.component import create
from qpatchbench.ops.crafting.score_access import Scores
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.registry import ATTACKS
from qpatchbench.types import CraftTask, ImageSet, Network, Untargeted
from tests.bench.subject import Subject
from tests.bench.timing import Row, alternate, ratio, seconds

SIDE, SIZE, IMAGES, STEPS = 32, 6, 32, 10
# Short budgets; seconds per image are for these, and grow with steps and queries as the passes do.
COSTED: dict[str, dict[str, Any]] = {
    "gap": {"steps": STEPS, "batch_size": IMAGES},
    "lavan_per_image": {"steps": STEPS},
    "patch_apgd": {"steps": STEPS, "restarts": 1},
    "rao": {"steps": STEPS},
    "dpr": {"steps": STEPS, "texture_steps": STEPS, "restarts": 1},
    "sparse_rs": {"queries": 3 * STEPS},
    "pgd": {"steps": STEPS},
    "mifgsm": {"steps": STEPS},
    "fgsm": {},
}


def image_by_image(subject: Subject) -> list[Row]:
    """patch_apgd on 32 images in one batch against one image after the other."""
    attack, images = _attack("patch_apgd"), _images(subject)

    def one_by_one() -> None:
        for index in range(IMAGES):
            attack.craft(_task(attack, subject.deployed, images[index : index + 1]))

    times = alternate({"together": lambda: attack.craft(_task(attack, subject.deployed, images)), "alone": one_by_one})
    value = f"{ratio(times, 'alone', 'together'):.2f} x"
    return [Row("patch_apgd, one by one / together", value, f"{IMAGES} images, {STEPS} steps")]


def costs(subject: Subject) -> list[Row]:
    """Forward and backward passes per image, counted at the network, and seconds, of each attack."""
    rows = []
    for name in COSTED:
        attack, images = _attack(name), _images(subject)
        counted = _Counted(subject.deployed)
        attack.craft(_task(attack, counted, images))
        spent = seconds(lambda attack=attack, images=images: attack.craft(_task(attack, subject.deployed, images)))  # type: ignore[misc]  # a default binds the loop's value
        passes = f"{counted.forward / IMAGES:.0f} forward, {counted.backward / IMAGES:.0f} backward passes per image"
        rows.append(Row(f"cost of {name}", f"{1000 * spent / IMAGES:.1f} ms", f"per image: {passes}"))
    return rows


class _Counted:
    """A network that counts the images it saw, and those whose gradient was taken."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.forward = self.backward = 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.forward += len(images)
        if images.requires_grad:
            images.register_hook(self._seen)  # type: ignore[no-untyped-call]  # of torch
        return self._network(images)

    def _seen(self, gradient: torch.Tensor) -> None:
        self.backward += len(gradient)


def _attack(name: str) -> Attack:
    size = {"size": SIZE} if ATTACKS.get(name).covers == "square" else {}
    made: Attack = create(ATTACKS, {"name": name, "targets": "untargeted", **size, **COSTED[name]})
    return made


def _images(subject: Subject) -> ImageSet:
    return subject.splits.evaluation[:IMAGES]


def _task(attack: Attack, network: Network, images: ImageSet) -> CraftTask:
    places = sample_placement(len(images), (SIDE, SIDE), (SIZE, SIZE), torch.Generator().manual_seed(1))
    alone = attack.kind == "per_image"
    return CraftTask(
        (Scores(network) if attack.access == "scores" else network,),
        (Untargeted(),),
        images,
        torch.Generator().manual_seed(0),
        attacked=images if alone else None,
        placement=places if alone else None,
    )
