"""Every registered attack keeps every invariant, and every invariant catches an attack that breaks it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError

from qpatchbench.attacks import autopatch
from qpatchbench.attacks.base import Attack
from qpatchbench.attacks.gap import Gap
from qpatchbench.attacks.lavan import Lavan, LavanPerImage
from qpatchbench.component import create
from qpatchbench.errors import PluginError
from qpatchbench.models.classifier import ImageClassifier
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.switchable import initialize, prepare, set_bits
from qpatchbench.registry import ATTACKS
from qpatchbench.testing import conformance
from qpatchbench.testing.conformance import ATTACK_CHECKS, craft, goals_of
from qpatchbench.types import Bits, CraftTask, ImageSet, Network, Patch, Size, Targeted, Untargeted

SIDE, CLASSES = 10, 4

# What keeps crafting short, for the fields that an attack has. An attack on the whole image has no size to give.
FEW: dict[str, object] = {"effort": "quick", "steps": 3, "batch_size": 8, "queries": 40, "texture_steps": 0}


@pytest.fixture(autouse=True)
def short_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compound attack has no fields that shorten it, since it is the same for everybody."""
    monkeypatch.setitem(autopatch.BUDGETS, "quick", autopatch.Budget(4, 3, 1, 40))


# Invariants that an attack is excused from, with the reason.
EXCUSED = {
    ("grey", "check_attack_depends_on_its_seed"): "it is one constant",
    ("fgsm", "check_attack_depends_on_its_seed"): "it starts at the clean image and draws nothing",
    ("mifgsm", "check_attack_depends_on_its_seed"): "it starts at the clean image and draws nothing",
    **{
        (control, check): "it never looks at the network"
        for control in ("grey", "random")
        for check in ("check_attack_reports_progress", "check_attack_refuses_a_broken_network")
    },
}
# Attacks that work on vision transformers only, with the size of a patch of whole tokens.
ON_TOKENS = {"patch_fool": 4}
# Attacks that take no target class, with the reason.
UNTARGETED_ONLY = {"autoattack": "its parts look for any wrong class"}
TARGETABLE = [name for name in ATTACKS.entries if name not in UNTARGETED_ONLY]
# Attacks with a history entry per part instead of one per step.
PARTWISE = ("autoattack",)
STEPWISE = [
    name
    for name in ATTACKS.entries
    if ATTACKS.get(name).access == "gradient" and "steps" in ATTACKS.get(name).model_fields and name not in PARTWISE
]
CASES = [
    pytest.param(name, check, targets, id=f"{targets}-{name}-{check.__name__}")
    for name in ATTACKS.entries
    for check in ATTACK_CHECKS
    for targets in ("all", "untargeted")
    if (name, check.__name__) not in EXCUSED and (targets == "untargeted" or name in TARGETABLE)
]


@pytest.fixture(scope="module")
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (20, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(20) % CLASSES, tuple(map(str, range(20))))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A fake-quantized network with everything that crafting could disturb: observers, BatchNorm, gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Dropout(0.5),
            torch.nn.Conv2d(8, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, CLASSES),
        )  # fmt: skip
    bits = (Bits.parse(8), Bits.parse(4))
    prepare(module, bits, Qat(name="qat", bits=bits))
    initialize(module, torch.rand(16, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)))
    set_bits(module, bits[0])
    return module.eval()  # parameters still require gradients: crafting must not leave any


class Ground(NamedTuple):
    """What an attack is tried on."""

    network: torch.nn.Module
    images: ImageSet


@pytest.fixture(scope="module")
def tokens() -> Ground:
    """A vision transformer of 4 x 4 tokens, with what crafting could disturb: gradients, dropout, fused attention."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=4, num_heads=3, num_classes=CLASSES,
            drop_rate=0.5, init_values=1.0,
        )  # fmt: skip
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (20, 3, 16, 16), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(20) % CLASSES, tuple(map(str, range(20))))
    return Ground(ImageClassifier(module, (0.5,) * 3, (0.25,) * 3, 16).eval(), images)


@pytest.fixture
def ground(name: str, network: torch.nn.Module, images: ImageSet, tokens: Ground) -> Ground:
    """A network that the attack of this test works on, and images for it."""
    return tokens if name in ON_TOKENS else Ground(network, images)


def attack_named(name: str, **fields: object) -> Attack:
    known = ATTACKS.get(name).model_fields
    size = {"size": ON_TOKENS.get(name, 3)} if ATTACKS.get(name).covers == "square" else {}
    attack: Attack = create(ATTACKS, {"name": name, **size, **{k: v for k, v in FEW.items() if k in known}, **fields})
    return attack


@pytest.mark.parametrize(("name", "check", "targets"), CASES)
def test_conformance(
    name: str,
    check: Callable[[Attack, torch.nn.Module, ImageSet], None],
    targets: str,
    ground: Ground,
) -> None:
    check(attack_named(name, targets=targets), *ground)


def test_excuses_are_needed(network: torch.nn.Module, images: ImageSet) -> None:
    """An excuse that no longer applies must be struck out."""
    for name, check in EXCUSED:
        with pytest.raises(PluginError, match=name):
            getattr(conformance, check)(attack_named(name), network, images)


@pytest.mark.parametrize("name", TARGETABLE)
def test_goals_keep_their_order(name: str, ground: Ground) -> None:
    attack = attack_named(name, targets=[3, 0, 2])
    patch = craft(attack, *ground)
    assert patch.goals == (Targeted(3), Targeted(0), Targeted(2))
    each = len(ground.images) if attack.kind == "per_image" else 1
    for index, goal in enumerate(patch.goals):
        own = patch.for_goal(index)
        assert own.goals == (goal,)
        assert torch.equal(own.textures, patch.textures[index * each : (index + 1) * each])


@pytest.mark.parametrize("name", STEPWISE)
def test_one_step_works_and_reverses_no_sign(name: str, ground: Ground) -> None:
    """More steps lower the loss of the objective that the attack reports."""
    assert len(craft(attack_named(name, steps=1), *ground).history) == 1
    history = craft(attack_named(name, steps=40), *ground).history
    assert len(history) == 40
    assert np.mean(history[-5:]) < np.mean(history[:5])


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


def test_per_image_without_places_is_an_error(network: torch.nn.Module, images: ImageSet) -> None:
    with pytest.raises(ValueError, match="a placement for each, found a task without them"):
        attack_named("lavan_per_image").craft(CraftTask((network,), (Untargeted(),), images, torch.Generator()))


def test_controls_look_at_nothing(images: ImageSet) -> None:
    def forbidden(inputs: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a control must not ask the network")

    nothing = ImageSet(torch.empty(0, 3, 1, 1, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), ())
    for name in ("grey", "random"):
        attack = attack_named(name)
        patch = attack.craft(CraftTask((forbidden,), (Untargeted(),), nothing, torch.Generator()))
        assert patch.textures.shape == (1, 3, 3, 3)
    assert craft(attack_named("grey"), forbidden, images).textures.eq(0.5).all()


class Decoy(Attack):
    """Crafts honestly, then `spoil` breaks one promise."""

    kind: ClassVar[Literal["universal", "per_image"]] = "universal"
    name: str = "decoy"
    size: Size = Size(3)
    spoiled: str = ""

    def craft(self, task: CraftTask) -> Patch:
        """A `Lavan` patch with one flaw."""
        honest = Lavan(name="lavan", size=Size(3), steps=2, batch_size=4)
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
    torch.autograd.backward(network(torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator())).sum())
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
    "range": lambda patch, *_: replace(patch, textures=patch.textures * 1.5 - 0.25),
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
    "constant": lambda patch, *_: replace(patch, textures=patch.textures * 0),
}


@pytest.mark.parametrize(
    ("spoiled", "check", "message"),
    [
        ("larger mask", "check_attack_patch", "textures of shape"),
        ("hole", "check_attack_patch", "area"),
        ("soft mask", "check_attack_patch", "zeros and ones"),
        ("range", "check_attack_patch", r"\[0, 1\]"),
        ("nan texture", "check_attack_patch", "finite textures"),
        ("goals", "check_attack_patch", "order"),
        ("double", "check_attack_patch", "float32"),
        ("nan history", "check_attack_patch", "history"),
        ("train mode", "check_attack_leaves_its_inputs_alone", "mode"),
        ("running statistics", "check_attack_leaves_its_inputs_alone", "running_mean"),
        ("gradients", "check_attack_leaves_its_inputs_alone", "autograd.grad"),
        ("frozen", "check_attack_leaves_its_inputs_alone", "requires_grad"),
        ("pixels", "check_attack_leaves_its_inputs_alone", "pixels"),
        ("global torch", "check_attack_uses_no_global_randomness", "torch's"),
        ("global torch", "check_attack_is_reproducible", "same seed"),
        ("global numpy", "check_attack_uses_no_global_randomness", "numpy's"),
        ("global python", "check_attack_uses_no_global_randomness", "Python's"),
        ("constant", "check_attack_depends_on_its_seed", "another seed"),
        ("nan", "check_attack_refuses_a_broken_network", "AttackError"),
    ],
)
def test_a_decoy_is_caught(spoiled: str, check: str, message: str, images: ImageSet) -> None:
    own = ImageSet(images.pixels.clone(), images.labels, images.ids)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(256, CLASSES)
        ).eval()
        getattr(conformance, check)(Decoy(), module, own)  # the same attack without the flaw passes
        with pytest.raises(PluginError, match=message):
            getattr(conformance, check)(Decoy(spoiled=spoiled), module, own)


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
