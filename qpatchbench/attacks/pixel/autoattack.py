"""AutoAttack (Croce, Hein 2020, arXiv 2003.01690), with the authors' code as the library pyautoattack packages it.

The standard version of section 5: four attacks without parameters to tune, each on the images that the ones before
left unbroken. Auto-PGD on the cross-entropy; Auto-PGD on the targeted difference of logits ratio, for the 9 most likely
other classes (fewer where there are no 9); the boundary attack FAB towards the same classes, all of 100 steps; and
Square Attack, a search of 5,000 queries without gradients. Studies of patches on quantized networks use epsilon = 0.015
and 0.03.

The parts are the library's, with its standard version's parameters; what calls them in turn is ours, for two reasons.
An image counts as broken only if it still is at 8 bits, else the next part gets it too. And the library's own loop
ends other people's tracing (`sys.settrace`) and writes warnings. Images that no part breaks are returned unchanged,
as there. As 8-bit images differ by whole levels, the library is given the largest whole level in epsilon for a radius.
"""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import torch
from pydantic import Field, field_validator

from qpatchbench.attacks.pixel.base import PixelAttack
from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.losses import goal_classes
from qpatchbench.ops.crafting.pixel_attacks import LEVELS, judged_images, to_8_bit_inside, whole_images, whole_levels
from qpatchbench.ops.devices import forked_draws
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.types import Announced, CraftTask, Network, Patch, Stage

FEWEST_CLASSES = 4  # the targeted difference of logits ratio divides by z_1 - (z_3 + z_4) / 2
MOST_TARGETS = 9
ACCESS = {"apgd-ce": "gradient", "apgd-t": "gradient", "fab-t": "gradient", "square": "scores"}

# Images (B, 3, H, W), labels (B,) -> images, changed where the part succeeded.
Part: TypeAlias = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


class AutoAttack(PixelAttack):
    """Worst case of four attacks, untargeted: the yardstick for small changes of the whole image."""

    version: ClassVar[int] = 2

    steps: int = Field(default=100, gt=0, description="steps of Auto-PGD and FAB; 100 in the standard version")
    queries: int = Field(default=5000, gt=0, description="queries of Square Attack; 5000 in the standard version")

    @field_validator("targets")
    @classmethod
    def _untargeted(cls, targets: object) -> object:
        if targets != "untargeted":
            raise ValueError(
                "AutoAttack looks for any wrong class and takes no target: expected untargeted, found "
                f"{targets}; pgd takes targets"
            )
        return targets

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """Its targeted part divides by the fourth logit."""
        if known.classes < FEWEST_CLASSES:
            yield (
                "",
                f"expected at least {FEWEST_CLASSES} classes for the targeted loss of AutoAttack, found "
                f"{known.classes}; pgd works with any number",
            )

    def passes(self) -> float:
        """An upper bound: ten runs of Auto-PGD and nine of FAB, whose steps end with a look, and the search."""
        return self.steps * (3.0 * (1 + MOST_TARGETS) + 4.0 * MOST_TARGETS) + self.queries

    def craft(self, task: CraftTask) -> Patch:
        """One image per attacked image; `history` has one entry per part.

        Raises:
            AttackError: pyautoattack is not installed, the network has fewer than 4 classes, or its output is not
                finite.
        """
        return loops.goal_by_goal(task, self._for_one_goal)

    def _for_one_goal(self, task: CraftTask) -> Patch:
        images, _ = task.require_places()
        labels, found = images.labels, to_float(images.pixels)  # what still stands is the clean image
        targets = goal_classes(task.goals).to(labels.device).expand(len(labels))
        attacked = torch.ones_like(labels, dtype=torch.bool)
        losses, broken = torch.zeros(len(labels), device=labels.device), torch.zeros_like(labels, dtype=torch.bool)
        parts = {"clean": _unchanged, **self._parts(task, found[:1])}  # what is wrong when clean is not attacked
        history, stages = [], []
        for index, (name, part) in enumerate(parts.items()):
            left = (~broken).nonzero().flatten()
            for some in loops.image_parts(len(left), images.side):
                chosen = left[some]
                clean = found[chosen]
                with _isolated(clean.device):
                    tried = to_8_bit_inside(part(clean.clone(), labels[chosen]), clean, self.epsilon)
                judgement = judged_images(task.network, tried, labels[chosen], targets[chosen], f"on images of {name}")
                # Unless a part broke it, an image's loss stays that of the clean one.
                losses[chosen] = torch.where(judgement.success | (index == 0), judgement.losses, losses[chosen])
                found[chosen] = torch.where(judgement.success.view(-1, 1, 1, 1), tried, clean)
                broken[chosen] = judgement.success
            if index == 0:
                attacked = ~broken
            stages.append(Stage(name, ACCESS.get(name, "none"), len(left), len(left) - int((~broken).sum())))
            history.append(float(losses.mean()))
            task.progress(index / (len(parts) - 1), {"loss": history[-1], "asr": 100 * float(broken.float().mean())})
        return whole_images(task, found, tuple(history[1:]), tuple(stages[1:]), attacked)

    def _parts(self, task: CraftTask, image: torch.Tensor) -> dict[str, Part]:
        """The four of the standard version, in their order."""
        with torch.no_grad():
            classes = task.network(image).shape[1]
        if classes < FEWEST_CLASSES:
            raise AttackError(
                f"AutoAttack needs at least {FEWEST_CLASSES} classes for its targeted loss, found {classes}; "
                "pgd works with any number"
            )
        network = _of_images_only(task.network)
        targets = min(MOST_TARGETS, classes - 1)
        seed = int(torch.randint(2**31, (1,), generator=task.generator))
        alike = {
            "eps": whole_levels(self.epsilon) / LEVELS, "norm": "Linf", "n_restarts": 1, "seed": seed,
            "device": image.device,
        }  # fmt: skip
        gradients, boundary, search = (_module(name) for name in ("autopgd_base", "fab_pt", "square"))
        apgd = gradients.APGDAttack(network, n_iter=self.steps, loss="ce", **alike)
        aimed = gradients.APGDAttack_targeted(network, n_iter=self.steps, n_target_classes=targets, **alike)
        fab = boundary.FABAttack_PT(network, n_iter=self.steps, targeted=True, n_target_classes=targets, **alike)
        square = search.SquareAttack(network, n_queries=self.queries, p_init=0.8, resc_schedule=False, **alike)
        return dict(zip(ACCESS, (apgd.perturb, aimed.perturb, fab.perturb, square.perturb), strict=True))


def _module(name: str) -> Any:  # noqa: ANN401 (the library has no types)
    try:
        return importlib.import_module(f"pyautoattack.{name}")
    except ImportError as error:
        raise AttackError(
            f"the attack autoattack needs the library pyautoattack, which cannot be imported ({error}): "
            "pip install 'qpatchbench[autoattack]'"
        ) from error


def _unchanged(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return images


def _of_images_only(network: Network) -> Network:
    """The network as the library may use it: it calls `backward`, which would leave gradients in the weights."""
    from qpatchbench.ops.crafting.input_gradient import OfImagesOnly

    def finite(images: torch.Tensor) -> torch.Tensor:
        logits = network(images)
        if not bool(torch.isfinite(logits).all()):
            raise AttackError("the network's logits are not finite on an image of AutoAttack")
        return logits

    def sealed(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = OfImagesOnly.apply(images, finite)  # type: ignore[no-untyped-call]  # torch's
        return logits

    return sealed


@contextmanager
def _isolated(device: torch.device) -> Iterator[None]:
    """The library seeds global generators and warns of zero gradients; neither is to be noticed outside."""
    import numpy as np

    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is this one that must not move)
    try:
        with (
            forked_draws(device),
            torch.no_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
