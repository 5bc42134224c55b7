"""Every registered attack keeps every invariant, and every invariant catches an attack that breaks it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from qpatchbench.attacks.base import Attack
from qpatchbench.attacks.gap import Gap
from qpatchbench.attacks.lavan import Lavan, LavanPerImage
from qpatchbench.component import Component
from qpatchbench.errors import PluginError
from qpatchbench.registry import ATTACKS
from qpatchbench.testing import ComponentCheck, checks_for, parametrize_with_checks, trial
from qpatchbench.testing.checks.attacks import a_broken_network_is_refused, the_patch_is_well_formed
from qpatchbench.testing.fixtures.attack_tasks import craft, goals_of, ground_for
from qpatchbench.types import CraftTask, ImageSet, Network, Patch, Placement, Size, Targeted, Untargeted

# Attacks that take no target class, with the reason.
UNTARGETED_ONLY = {"autoattack": "its parts look for any wrong class"}
# One that reads a file is in test_file_patches.
CRAFTED = [name for name in ATTACKS.entries if not ATTACKS.get(name).external]
TARGETABLE = [name for name in CRAFTED if name not in UNTARGETED_ONLY]


def attack_named(name: str, **fields: object) -> Attack:
    small: Attack = trial(ATTACKS.get(name), name)
    return type(small).model_validate({**small.model_dump(), **fields})


@parametrize_with_checks([attack_named(name) for name in CRAFTED])
def test_conformance(component: Component, check: ComponentCheck) -> None:
    check(component)


@pytest.mark.parametrize("name", TARGETABLE)
def test_conformance_where_untargeted(name: str) -> None:
    attack = attack_named(name, targets="untargeted")
    the_patch_is_well_formed(attack, 0)
    if attack.access != "none":
        a_broken_network_is_refused(attack, 0)


@pytest.mark.parametrize("name", TARGETABLE)
def test_goals_keep_their_order(name: str) -> None:
    attack = attack_named(name, targets=[3, 0, 2])
    network, images = ground_for(attack, 0)
    patch = craft(attack, network, images)
    assert patch.goals == (Targeted(3), Targeted(0), Targeted(2))
    each = len(images) if attack.kind == "per_image" else 1
    for index, goal in enumerate(patch.goals):
        own = patch.for_goal(index)
        assert own.goals == (goal,)
        assert torch.equal(own.textures, patch.textures[index * each : (index + 1) * each])


@pytest.mark.parametrize("name", TARGETABLE)
def test_goals_of_targets(name: str) -> None:
    assert attack_named(name, targets="all").goals(3) == (Targeted(0), Targeted(1), Targeted(2))
    assert attack_named(name, targets="untargeted").goals(3) == (Untargeted(),)
    assert attack_named(name, targets=(2, 1)).goals(3) == (Targeted(2), Targeted(1))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("gap", "steps", 0),
        ("gap", "rotation", -1),
        ("gap", "rotation", 181),
        ("gap", "scale", (1.1, 0.9)),
        ("gap", "scale", (0.0, 1.0)),
        ("lavan", "step_size", 0),
        ("lavan", "size", 0),
        ("lavan_per_image", "step_size", 1.5),
        ("random", "steps", 5),
    ],
)
def test_fields_are_checked(name: str, field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        attack_named(name, **{field: value})


def test_per_image_without_places_is_an_error() -> None:
    network, images = ground_for(attack_named("lavan_per_image"), 0)
    with pytest.raises(ValueError, match="a placement for each, found a task without them"):
        attack_named("lavan_per_image").craft(CraftTask((network,), (Untargeted(),), images, torch.Generator()))


def test_controls_look_at_nothing() -> None:
    def forbidden(inputs: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a control must not ask the network")

    nothing = ImageSet(torch.empty(0, 3, 1, 1, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), ())
    for name in ("grey", "random"):
        attack = attack_named(name)
        patch = attack.craft(CraftTask((forbidden,), (Untargeted(),), nothing, torch.Generator()))
        assert patch.textures.shape == (1, 3, 4, 4)
    images = ground_for(attack_named("grey"), 0).images
    assert craft(attack_named("grey"), forbidden, images).textures.eq(0.5).all()


class Decoy(Attack):
    """Crafts honestly, then `spoil` breaks one promise."""

    kind: ClassVar[Literal["universal", "per_image"]] = "universal"
    name: str = "decoy"
    size: Size = Size(3)
    spoiled: str = ""
    steps: int = 2

    def craft(self, task: CraftTask) -> Patch:
        """A `Lavan` patch with one flaw."""
        honest = Lavan(name="lavan", size=self.size, steps=self.steps, batch_size=16)
        if self.spoiled == "nan":
            count = len(task.goals)
            task.progress(1.0, {})
            textures = torch.rand(count, 3, 3, 3, generator=task.generator)
            return Patch(textures, torch.ones(count, 1, 3, 3), task.goals)
        return FLAWS[self.spoiled](honest.craft(task), task.network, task.crafting)


def _then(patch: Patch, *_: object) -> Patch:
    return patch


def _train_mode(patch: Patch, network: Network, images: ImageSet) -> Patch:
    assert isinstance(network, torch.nn.Module)
    network.train()
    return patch


def _running_statistics(patch: Patch, network: Network, images: ImageSet) -> Patch:
    assert isinstance(network, torch.nn.Module)
    next(b for name, b in network.named_buffers() if name.endswith("running_mean")).add_(1e-3)
    return patch


def _gradients(patch: Patch, network: Network, images: ImageSet) -> Patch:
    torch.autograd.backward(network(torch.rand(1, 3, 12, 12, generator=torch.Generator())).sum())
    return patch


def _frozen(patch: Patch, network: Network, images: ImageSet) -> Patch:
    assert isinstance(network, torch.nn.Module)
    network.requires_grad_(False)
    return patch


def _pixels(patch: Patch, network: Network, images: ImageSet) -> Patch:
    images.pixels[0, 0, 0, 0] += 1
    return patch


FLAWS: dict[str, Callable[[Patch, Network, ImageSet], Patch]] = {
    "": _then,
    "larger mask": lambda patch, *_: replace(patch, textures=torch.rand(2, 3, 4, 4), masks=torch.ones(2, 1, 4, 4)),
    "hole": lambda patch, *_: replace(patch, masks=patch.masks * (torch.arange(3) > 0)),
    "soft mask": lambda patch, *_: replace(patch, masks=patch.masks * 0.5),
    "range": lambda patch, *_: replace(patch, textures=patch.textures + 1),
    "nan texture": lambda patch, *_: replace(patch, textures=patch.textures * float("nan")),
    "goals": lambda patch, *_: replace(patch, goals=patch.goals[::-1]),
    "double": lambda patch, *_: replace(patch, textures=patch.textures.double()),
    "nan history": lambda patch, *_: replace(patch, history=(float("nan"),)),
    "train mode": _train_mode,
    "running statistics": _running_statistics,
    "gradients": _gradients,
    "frozen": _frozen,
    "pixels": _pixels,
    "global torch": lambda patch, *_: replace(patch, textures=torch.rand_like(patch.textures)),
    "global numpy": lambda patch, *_: [np.random.rand(), patch][1],  # noqa: NPY002
    "global python": lambda patch, *_: [random.random(), patch][1],
    "inverted": lambda patch, *_: replace(patch, textures=1 - patch.textures),
    "constant": lambda patch, *_: replace(patch, textures=patch.textures * 0),
}


CHECKS = {check.name: check for check in checks_for(Decoy())}


@pytest.mark.parametrize(
    ("spoiled", "check", "message"),
    [
        ("larger mask", "the_patch_is_well_formed", "textures of shape"),
        ("hole", "the_patch_is_well_formed", "area"),
        ("soft mask", "the_patch_is_well_formed", "zeros and ones"),
        ("range", "the_patch_is_well_formed", r"\[0, 1\]"),
        ("nan texture", "the_patch_is_well_formed", "finite textures"),
        ("goals", "the_patch_is_well_formed", "order"),
        ("double", "the_patch_is_well_formed", "float32"),
        ("nan history", "the_patch_is_well_formed", "history"),
        ("train mode", "inputs_are_left_alone", "mode"),
        ("running statistics", "inputs_are_left_alone", "running_mean"),
        ("gradients", "inputs_are_left_alone", "autograd.grad"),
        ("frozen", "inputs_are_left_alone", "requires_grad"),
        ("pixels", "inputs_are_left_alone", "pixels"),
        ("global torch", "no_global_generator_moves", "torch's"),
        ("global torch", "the_seed_decides", "same seed"),
        ("global numpy", "no_global_generator_moves", "numpy's"),
        ("global python", "no_global_generator_moves", "Python's"),
        ("constant", "another_seed_gives_another_patch", "another seed"),
        ("nan", "a_broken_network_is_refused", "AttackError"),
        ("inverted", "the_patch_beats_noise", "sign of the step; found"),
        ("inverted", "the_optimum_is_reached", "95% of the best margin"),
    ],
)
def test_a_decoy_is_caught(spoiled: str, check: str, message: str) -> None:
    with torch.random.fork_rng():
        steps = 20 if spoiled == "inverted" else 2
        CHECKS[check](Decoy(steps=steps))  # the same attack without the flaw passes
        with pytest.raises(PluginError, match=message):
            CHECKS[check](Decoy(spoiled=spoiled, steps=steps))


class OnTheDiagonal(Gap):
    """Learns for places whose row and column are equal."""

    def place(self, count: int, image_size: tuple[int, int], generator: torch.Generator) -> Placement:
        drawn = super().place(count, image_size, generator)
        return replace(drawn, columns=drawn.rows)


class NeverAtTheEnd(Gap):
    """Learns for places that leave out the last row and column."""

    def place(self, count: int, image_size: tuple[int, int], generator: torch.Generator) -> Placement:
        height, width = image_size
        return super().place(count, (height - 1, width - 1), generator)


@pytest.mark.parametrize(
    ("decoy", "missing"), [(OnTheDiagonal, "off the diagonal"), (NeverAtTheEnd, "the last row, the last column")]
)
def test_a_place_that_is_never_reached_is_named(decoy: type[Gap], missing: str) -> None:
    attack = decoy(name="gap", size=Size(3), steps=3, batch_size=8, rotation=0)
    with pytest.raises(PluginError, match=f"rows and columns drawn independently .* never {missing}"):
        CHECKS["every_place_is_reached"](attack)


class Backwards(LavanPerImage):
    """Reports its losses in the wrong order."""

    def craft(self, task: CraftTask) -> Patch:
        patch = super().craft(task)
        return replace(patch, history=patch.history[::-1])


def test_a_history_that_rises_is_caught() -> None:
    with pytest.raises(PluginError, match="a loss that falls over the steps .* in the first five"):
        CHECKS["the_reported_loss_falls"](Backwards(name="backwards", size=Size(4), steps=3))


def test_gap_without_transformations_draws_straight_places() -> None:
    """At rotation 0 and scale 1 the crafting distribution is the evaluation's own."""
    attack = Gap(name="gap", size=3, steps=2, batch_size=4, rotation=0)
    seen: list[torch.Tensor] = []

    def network(inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs.detach())
        return inputs.flatten(1)[:, :2]

    black = ImageSet(torch.zeros(16, 3, 8, 8, dtype=torch.uint8), torch.zeros(16, dtype=torch.int64), ("",) * 16)
    attack.craft(CraftTask((network,), (Targeted(1),), black, torch.Generator().manual_seed(0)))
    covered = torch.cat(seen).ne(0).any(dim=1).flatten(1).sum(dim=1)
    assert covered.eq(9).all(), "a patch without rotation covers exactly its pixels"


def test_goals_of_a_check_are_few() -> None:
    assert goals_of(LavanPerImage(name="lavan_per_image", size=3)) == (Targeted(0), Targeted(1))
