"""What attacks cost: passes and seconds per image, and what working on many images at once saves."""

from __future__ import annotations

from typing import Any

import torch

from qpatchbench.attacks.autopatch import AutoPatch
from qpatchbench.attacks.base import Attack
from qpatchbench.component import create
from qpatchbench.evaluation.measure import clean_predictions, patched_predictions
from qpatchbench.ops.crafting.score_access import Scores
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.registry import ATTACKS
from qpatchbench.types import CraftTask, ImageSet, Network, Placement, Size, Untargeted
from tests.bench.subject import Subject
from tests.bench.timing import Row, alternate, ratio, seconds

SIDE, SIZE, IMAGES, STEPS = 32, 6, 32, 10
SMALL = 3  # a patch that leaves some images unbroken
# Short budgets; seconds per image are for these, and grow with steps and queries as the passes do.
COSTED: dict[str, dict[str, Any]] = {
    "gap": {"steps": STEPS, "batch_size": IMAGES},
    "lavan_per_image": {"steps": STEPS},
    "patch_apgd": {"steps": STEPS, "restarts": 1, "location": "given"},
    "rao": {"steps": STEPS, "restarts": 1},
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


def together(subject: Subject) -> list[Row]:
    """What autopatch breaks of the images that are right when clean, over what its parts break apart, together."""
    attack = AutoPatch(name="autopatch", size=Size(SMALL), effort="quick")
    everything = subject.splits.evaluation[:IMAGES]
    right = clean_predictions(subject.deployed, everything, IMAGES).long() == everything.labels
    images = everything.chosen(right)
    places = _places(images, SMALL)

    def broken(part: Attack) -> torch.Tensor:
        patch = part.craft(_task(part, subject.deployed, images, SMALL))
        where = patch.placement if patch.placement is not None else places
        return patched_predictions(subject.deployed, images, patch, where, IMAGES)[0].long() != images.labels

    whole = broken(attack)
    parts = torch.stack([broken(part) for part, _ in attack.stages(siblings=False)])
    each = ", ".join(str(int(part.sum())) for part in parts)
    union = int(parts.any(dim=0).sum())
    meaning = f"{int(whole.sum())} and {union} of {len(images)} images, {SMALL}x{SMALL}, quick; parts: {each}"
    return [Row("autopatch / union of its parts", f"{int(whole.sum()) / max(1, union):.2f} x", meaning)]


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


def _places(images: ImageSet, size: int) -> Placement:
    return sample_placement(len(images), (SIDE, SIDE), (size, size), torch.Generator().manual_seed(1))


def _task(attack: Attack, network: Network, images: ImageSet, size: int = SIZE) -> CraftTask:
    places = _places(images, size)
    alone = attack.kind == "per_image"
    return CraftTask(
        (Scores(network) if attack.access == "scores" else network,),
        (Untargeted(),),
        images,
        torch.Generator().manual_seed(0),
        attacked=images if alone else None,
        placement=places if alone else None,
    )
