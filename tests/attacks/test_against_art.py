"""`gap` and `lavan` beside another implementation, AdversarialPatchPyTorch of the adversarial-robustness-toolbox.

Both craft a universal patch on the same network, from the same images, at the same place, with the same number of Adam
steps of the same size on batches of the same size; both patches are measured by our harness on the same other images.

Properties of that class that decide how it is called: it never clears the gradient of the patch, so that it steps along
the sum of all gradients so far (worked around here, and shown below); a patch has the size asked for only if a location
is given, as (column, row); "circle" leaves out the corners; and a patch is enlarged to the image and reduced again,
which is exact only if the image's side is an odd multiple of the patch's.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from art.attacks.evasion import AdversarialPatchPyTorch
from art.estimators.classification import PyTorchClassifier

from qpatchbench.attacks.gap import Gap
from qpatchbench.attacks.lavan import Lavan
from qpatchbench.attacks.universal import UniversalAttack
from qpatchbench.data.base import Decoding
from qpatchbench.data.digits import Digits
from qpatchbench.evaluation.measure import clean_predictions, count_outcomes, patched_predictions
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.statistics.intervals import wilson
from qpatchbench.types import CraftTask, ImageSet, Patch, Placement, Targeted

SIDE, SIZE, CLASSES = 15, 5, 10
ROW, COLUMN = 5, 4
TARGET = 9
EPOCHS, BATCH, STEP = 16, 32, 0.05
CRAFTING = 256


def here(count: int) -> Placement:
    """The one place."""
    return upright(torch.full((count,), ROW), torch.full((count,), COLUMN))


class GapHere(Gap):
    """`gap` for one place."""

    def place(self, count: int, image_size: tuple[int, int], generator: torch.Generator) -> Placement:
        """Always the same."""
        return here(count)


class LavanHere(Lavan):
    """`lavan` for one place."""

    def place(self, count: int, image_size: tuple[int, int], generator: torch.Generator) -> Placement:
        """Always the same."""
        return here(count)


class Cleared(AdversarialPatchPyTorch):  # type: ignore[misc]  # it has no types
    """The class with its gradient cleared before each step."""

    def _train_step(self, images: torch.Tensor, target: torch.Tensor, mask: object = None) -> torch.Tensor:
        self._patch.grad = None
        loss: torch.Tensor = super()._train_step(images, target, mask)
        return loss


class LogitDifference(Cleared):
    """LaVAN's objective; a row of `target` is 1 at the target, -1 at the label, and 0 where they are the same."""

    def _loss(self, images: torch.Tensor, target: torch.Tensor, mask: object) -> torch.Tensor:
        logits = self.estimator.model(self._random_overlay(images, self._patch))[-1]
        loss: torch.Tensor = -(logits * target).sum(dim=1).mean()
        return loss


class Subject(NamedTuple):
    """A network trained on real digits, images to craft from and others to measure on."""

    network: torch.nn.Module
    crafting: ImageSet
    evaluation: ImageSet


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder: Path = tmp_path_factory.mktemp("digits")
    splits = Digits(image_size=SIDE, craft_images=CRAFTING).load(folder, folder, Decoding(), 500)
    images, labels = to_float(splits.train.pixels), splits.train.labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(3),
            torch.nn.Flatten(), torch.nn.Linear(288, CLASSES),
        )  # fmt: skip
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(12):
            order = torch.randperm(len(images))
            for first in range(0, len(images), 64):
                part = order[first : first + 64]
                optimizer.zero_grad()
                torch.autograd.backward(torch.nn.functional.cross_entropy(network(images[part]), labels[part]))
                optimizer.step()
    network.eval().requires_grad_(False)
    return Subject(network, splits.craft[:CRAFTING], splits.evaluation)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The toolbox warns and logs, and draws from the global generators."""
    legacy = np.random.get_state()  # noqa: NPY002 (what the toolbox draws from)
    logging.disable(logging.WARNING)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        yield
    logging.disable(logging.NOTSET)
    np.random.set_state(legacy)  # noqa: NPY002


def theirs(kind: type[Any], network: torch.nn.Module, epochs: int = EPOCHS) -> Any:  # noqa: ANN401 (it has no types)
    """The toolbox's attack at our settings."""
    classifier = PyTorchClassifier(
        network, torch.nn.CrossEntropyLoss(), (3, SIDE, SIDE), CLASSES, clip_values=(0, 1), device_type="cpu"
    )
    return kind(
        classifier, rotation_max=0.0, learning_rate=STEP, max_iter=epochs, batch_size=BATCH,
        patch_shape=(3, SIZE, SIZE), patch_location=(COLUMN, ROW), patch_type="square", optimizer="Adam",
        targeted=True, verbose=False,
    )  # fmt: skip


def as_patch(texture: np.ndarray | torch.Tensor) -> Patch:
    textures = torch.as_tensor(texture, dtype=torch.float32)[None]
    return Patch(textures, torch.ones(1, 1, SIZE, SIZE), (Targeted(TARGET),))


def goal_rows(images: ImageSet, kind: type[Any]) -> np.ndarray:
    """What `generate` is given as labels: the target, one-hot; less the label, one-hot, for LaVAN."""
    aimed = torch.nn.functional.one_hot(torch.full_like(images.labels, TARGET), CLASSES)
    if issubclass(kind, LogitDifference):
        aimed = aimed - torch.nn.functional.one_hot(images.labels, CLASSES)
    return aimed.float().numpy()


class Measured(NamedTuple):
    """Of one patch on the evaluation images."""

    eligible: int
    hit: int
    loss: float


def measured(subject: Subject, attack: UniversalAttack, patch: Patch) -> Measured:
    """Counts as the suite takes them, and the mean of the objective that the patch was crafted for."""
    images, placement = subject.evaluation, here(len(subject.evaluation))
    clean = clean_predictions(subject.network, images, 250).numpy()
    patched = patched_predictions(subject.network, images, patch, placement, 250).numpy()
    (counts,) = count_outcomes(images.labels.numpy(), clean, patched, patch.goals)
    with torch.no_grad():
        logits = subject.network(paste(to_float(images.pixels), patch.textures, patch.masks, placement))
        loss = attack.objective(logits, images.labels, torch.full_like(images.labels, TARGET)).mean()
    return Measured(counts.n_eligible, counts.n_hit, float(loss))


def difference_interval(first: Measured, second: Measured) -> tuple[float, float]:
    """Of two rates, from their Wilson intervals (Newcombe 1998, method 10)."""
    (a, b), (low, high) = (first, second), zip(*(wilson(m.hit, m.eligible) for m in (first, second)), strict=True)
    rates = [m.hit / m.eligible for m in (a, b)]
    below = math.hypot(rates[0] - low[0], high[1] - rates[1])
    above = math.hypot(high[0] - rates[0], rates[1] - low[1])
    return rates[0] - rates[1] - below, rates[0] - rates[1] + above


def test_both_paste_the_same_pixels(subject: Subject) -> None:
    """The place is (column, row) there; 15 is three times 5, and the middle of three samples is the pixel itself."""
    images, texture = to_float(subject.evaluation.pixels[:4]), torch.rand(3, SIZE, SIZE)
    pasted = theirs(Cleared, subject.network)._random_overlay(images, texture)
    ours = paste(images, texture[None], torch.ones(1, 1, SIZE, SIZE), here(4))
    assert torch.allclose(pasted, ours, atol=1e-6)


@pytest.mark.numerical
@pytest.mark.parametrize(
    ("attack", "kind"),
    [(GapHere(name="gap", size=SIZE, rotation=0), Cleared), (LavanHere(name="lavan", size=SIZE), LogitDifference)],
    ids=["gap", "lavan"],
)
def test_patches_are_equally_good(attack: UniversalAttack, kind: type[Any], subject: Subject) -> None:
    steps = EPOCHS * CRAFTING // BATCH
    attack = attack.model_copy(update={"steps": steps, "step_size": STEP, "batch_size": BATCH})
    generator = torch.Generator().manual_seed(0)
    patch = attack.craft(CraftTask((subject.network,), (Targeted(TARGET),), subject.crafting, generator))
    pixels = to_float(subject.crafting.pixels).numpy()
    texture, _ = theirs(kind, subject.network).generate(pixels, goal_rows(subject.crafting, kind))
    noise = measured(subject, attack, as_patch(torch.rand(3, SIZE, SIZE)))
    own, other = measured(subject, attack, patch), measured(subject, attack, as_patch(texture))
    rate = own.hit / own.eligible
    assert 0.1 < rate < 0.9, "hardly any or nearly all: the test is void"
    assert noise.hit / noise.eligible < rate / 3, "a random patch is as good: the test is void"
    low, high = difference_interval(own, other)
    assert low <= 0 <= high, f"{own.hit} of ours and {other.hit} of theirs hit, of {own.eligible} each"
    assert abs(own.loss - other.loss) < 0.05 * (noise.loss - other.loss)


def recording(kind: type[Any]) -> type[Any]:
    """The class with what it steps along and what the gradient at that step is."""

    class Recording(kind):  # type: ignore[misc]  # a class given at run time
        def _train_step(self, images: torch.Tensor, target: torch.Tensor, mask: object = None) -> torch.Tensor:
            (fresh,) = torch.autograd.grad(self._loss(images, target, mask), self._patch)
            loss: torch.Tensor = super()._train_step(images, target, mask)
            self.__dict__.setdefault("fresh", []).append(fresh)
            self.__dict__.setdefault("used", []).append(self._patch.grad.clone())
            return loss

    return Recording


def test_the_toolbox_steps_along_the_sum_of_all_gradients(subject: Subject) -> None:
    """Why `Cleared` is needed: left as it is, the class never forgets a gradient."""
    pixels, rows = to_float(subject.crafting.pixels[:96]).numpy(), goal_rows(subject.crafting[:96], Cleared)
    left, cleared = (theirs(recording(kind), subject.network, 1) for kind in (AdversarialPatchPyTorch, Cleared))
    for attack in (left, cleared):
        attack.generate(pixels, rows, shuffle=False)
        assert len(attack.fresh) == 3
    for step, (fresh, used) in enumerate(zip(left.fresh, left.used, strict=True)):
        assert torch.allclose(used, torch.stack(left.fresh[: step + 1]).sum(dim=0), atol=1e-6)
        assert step == 0 or float((used - fresh).norm()) > 0.5 * float(fresh.norm()), "no difference: strike this out"
    for fresh, used in zip(cleared.fresh, cleared.used, strict=True):
        assert torch.allclose(used, fresh, atol=1e-6)
