"""FGSM, PGD, MI-FGSM and AutoAttack: against independent implementations, and where the optimum is known."""

from __future__ import annotations

import importlib
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from pydantic import ValidationError

from qpatchbench.attacks.pixel.autoattack import AutoAttack
from qpatchbench.attacks.pixel.base import PixelAttack
from qpatchbench.attacks.pixel.fgsm import Fgsm
from qpatchbench.attacks.pixel.mifgsm import MiFgsm
from qpatchbench.attacks.pixel.pgd import Pgd
from qpatchbench.errors import AttackError
from qpatchbench.evaluation.measure import patched_predictions
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import forked
from qpatchbench.testing.fixtures.attack_tasks import task_for
from qpatchbench.testing.fixtures.oracles import linear_network
from qpatchbench.types import ImageSet, Network, Patch, Size, Targeted, Untargeted

SIDE, CLASSES, COUNT = 8, 5, 32
EPSILONS = (8 / 255, 0.015, 0.03)  # the usual one, and the two of the studies of quantized networks
ATTACKS = [
    Fgsm(name="fgsm"),
    Pgd(name="pgd", random_start=False),
    Pgd(name="pgd", steps=17, step_size=1 / 255),
    MiFgsm(name="mifgsm"),
    MiFgsm(name="mifgsm", steps=5, decay=0.5),
]
NAMES = ("fgsm", "pgd", "pgd from a random point", "mifgsm", "mifgsm with less momentum")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Smooth(torch.nn.Module):
    """A small network with smooth and uneven logits; its weights come from a seed."""

    def __init__(self, seed: int = 1, gain: float = 3.0) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8 * 36, CLASSES)
        generator = draws(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                spread = gain / parameter[0].numel() ** 0.5
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 8, 8) -> (B, 5)."""
        logits: torch.Tensor = self.last(torch.tanh(self.first(images - 0.5)).flatten(1))
        return logits


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return Smooth().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images(network: torch.nn.Module) -> ImageSet:
    """Images whose labels are what the network predicts; some pixels are black, some white."""
    pixels = torch.randint(-20, 276, (COUNT, 3, SIDE, SIDE), generator=draws(0)).clamp(0, 255).to(torch.uint8)
    return labelled(network, pixels)


def labelled(network: Network, pixels: torch.Tensor) -> ImageSet:
    with torch.no_grad():
        return ImageSet(pixels, network(to_float(pixels)).argmax(dim=1), tuple(map(str, range(len(pixels)))))


def adversarial(attack: PixelAttack, network: Network, images: ImageSet, seed: int = 0) -> Patch:
    """The patch for one goal: untargeted, or the class that `targets` names."""
    return attack.craft(task_for(attack, network, images, seed=seed))


def fooled(network: Network, images: ImageSet, found: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(found).argmax(dim=1) != images.labels


def losses(network: Network, found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(network(found), labels, reduction="none")


class Spy(torch.nn.Module):
    """Keeps the iterates at which a gradient was taken."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.iterates = network, list[torch.Tensor]()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the network answers."""
        if images.requires_grad:
            self.iterates.append(images.detach().clone())
        logits: torch.Tensor = self.network(images)
        return logits


def reference(name: str, network: torch.nn.Module, epsilon: float, steps: int) -> Any:  # noqa: ANN401 (no types there)
    """The attack of torchattacks at the settings below."""
    if name == "fgsm":
        return torchattacks.FGSM(network, eps=epsilon)
    if name == "pgd":
        return torchattacks.PGD(network, eps=epsilon, alpha=epsilon / 4, steps=steps, random_start=False)
    return torchattacks.MIFGSM(network, eps=epsilon, alpha=epsilon / 10, steps=steps, decay=1.0)


def ours(name: str, epsilon: float, steps: int, **fields: Any) -> PixelAttack:  # noqa: ANN401 (fields of any type)
    """The attack of this package at the same settings."""
    if name == "fgsm":
        return Fgsm(name=name, epsilon=epsilon, **fields)
    if name == "pgd":
        return Pgd(name=name, epsilon=epsilon, step_size=epsilon / 4, steps=steps, random_start=False, **fields)
    return MiFgsm(name=name, epsilon=epsilon, step_size=epsilon / 10, steps=steps, **fields)


@pytest.mark.numerical
@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("name", ["pgd", "mifgsm"])
def test_every_iterate_is_that_of_torchattacks(
    name: str, epsilon: float, target: int | None, network: torch.nn.Module, images: ImageSet
) -> None:
    targets = "untargeted" if target is None else (target,)
    spy, clean = Spy(network), to_float(images.pixels)
    adversarial(ours(name, epsilon, 9, targets=targets), spy, images)
    assert len(spy.iterates) == 9
    assert torch.equal(spy.iterates[0], clean)
    for steps in (1, 2, 5, 8):
        theirs = reference(name, network, epsilon, steps)
        theirs.set_device(torch.device("cpu"))
        labels = images.labels
        if target is not None:
            theirs.set_mode_targeted_by_label(quiet=True)
            labels = torch.full_like(labels, target)
        expected = theirs(clean, labels)
        worst = (spy.iterates[steps] - expected).abs().amax(dim=(1, 2, 3))
        assert float(worst.max()) < 1e-5, f"after {steps} steps"
        assert torch.equal(fooled(network, images, spy.iterates[steps]), fooled(network, images, expected))


@pytest.mark.numerical
@pytest.mark.parametrize("target", [None, 2])
def test_fgsm_is_that_of_torchattacks(target: int | None, network: torch.nn.Module, images: ImageSet) -> None:
    """At whole levels rounding changes nothing, so that the results are the same, not only the iterates."""
    targets = "untargeted" if target is None else (target,)
    theirs, labels = reference("fgsm", network, 8 / 255, 1), images.labels
    if target is not None:
        theirs.set_mode_targeted_by_label(quiet=True)
        labels = torch.full_like(labels, target)
    expected = theirs(to_float(images.pixels), labels)
    found = adversarial(Fgsm(name="fgsm", targets=targets), network, images).textures
    assert float((found - expected).abs().max()) < 1e-5
    assert torch.equal(fooled(network, images, found), fooled(network, images, expected))


@pytest.mark.numerical
@pytest.mark.parametrize("name", ["pgd", "mifgsm"])
def test_the_best_iterate_succeeds_wherever_the_last_of_torchattacks_does(
    name: str, network: torch.nn.Module, images: ImageSet
) -> None:
    """At 2/255 some images hold. PGD visits whole levels here; MI-FGSM ends on them, at epsilon."""
    steps = 10
    epsilon = 4 / 255 if name == "pgd" else 2 / 255
    expected = fooled(network, images, reference(name, network, epsilon, steps)(to_float(images.pixels), images.labels))
    found = fooled(network, images, adversarial(ours(name, epsilon, steps), network, images).textures)
    assert 0 < int(expected.sum()) < COUNT, "all or nothing: the test is void"
    assert (found | ~expected).all()


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_results_are_8_bit_images_inside_the_ball(
    attack: PixelAttack, epsilon: float, network: torch.nn.Module, images: ImageSet
) -> None:
    patch = adversarial(attack.model_copy(update={"epsilon": epsilon}), network, images)
    levels = patch.textures * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert levels.min() >= 0
    assert levels.max() <= 255
    change = (levels.round() - images.pixels).abs()
    assert float(change.max()) == int(epsilon * 255 + 1e-6), "the ball is used to its last whole level"
    assert (change.amax(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_a_patch_is_the_whole_image_at_the_corner(
    attack: PixelAttack, network: torch.nn.Module, images: ImageSet
) -> None:
    patch = adversarial(attack, network, images)
    assert patch.textures.shape == (COUNT, 3, SIDE, SIDE)
    assert patch.masks.eq(1).all()
    assert patch.placement is not None
    assert patch.placement.rows.tolist() == patch.placement.columns.tolist() == [0] * COUNT
    assert patch.placement.angles.tolist() == [0] * COUNT
    assert patch.placement.scales.tolist() == [1] * COUNT
    measured = patched_predictions(network, images, patch, patch.placement, 16)[0]
    assert torch.equal(measured != images.labels, fooled(network, images, patch.textures)), "as the harness sees it"


@pytest.mark.numerical
@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_untargeted_raises_the_loss_of_the_label_and_targeted_lowers_that_of_the_target(
    attack: PixelAttack, network: torch.nn.Module, images: ImageSet
) -> None:
    """The sign that QADT-R prints for FGSM and MI-FGSM would do the opposite."""
    clean, small = to_float(images.pixels), {"epsilon": 1 / 255, "random_start": False}
    known = {name: value for name, value in small.items() if name in type(attack).model_fields}
    attack = attack.model_copy(update=known)
    found = adversarial(attack, network, images).textures
    assert (losses(network, found, images.labels) > losses(network, clean, images.labels)).all()
    target = torch.full_like(images.labels, 3)
    steered = adversarial(attack.model_copy(update={"targets": (3,)}), network, images).textures
    assert (losses(network, steered, target) < losses(network, clean, target)).all()


def gradient_of_loss(network: Network, images: ImageSet) -> torch.Tensor:
    inputs = to_float(images.pixels).requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(network(inputs), images.labels), inputs)
    return gradient


def test_fgsm_is_its_equation(network: torch.nn.Module, images: ImageSet) -> None:
    """8 levels along the sign of the gradient that raises the label's loss, in numpy and integers."""
    sign = gradient_of_loss(network, images).sign().long().numpy()
    expected = np.clip(images.pixels.long().numpy() + 8 * sign, 0, 255)
    found = adversarial(Fgsm(name="fgsm"), network, images).textures
    assert np.array_equal((found * 255).round().long().numpy(), expected)


@pytest.mark.numerical
@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_the_linear_optimum_is_reached(attack: PixelAttack, target: int | None) -> None:
    """With two classes the loss has one slope w, and the best image is x + epsilon * sign(w), cut to [0, 1]."""
    weight = 0.1 * torch.randn(2, 3 * SIDE * SIDE, generator=draws(7))
    network = linear_network(weight).requires_grad_(False)
    pixels = torch.randint(0, 256, (16, 3, SIDE, SIDE), generator=draws(8), dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(16, dtype=torch.int64), tuple(map(str, range(16))))
    targets = "untargeted" if target is None else (target,)
    slope = (weight[1] - weight[0]).view(3, SIDE, SIDE)
    clean = to_float(pixels)
    best = (clean + attack.epsilon * slope.sign()).clamp(0, 1)
    found = adversarial(attack.model_copy(update={"targets": targets}), network, images).textures
    gain, possible = (((image - clean) * slope).sum(dim=(1, 2, 3)) for image in (found, best))
    assert (gain >= 0.95 * possible).all()
    if isinstance(attack, Fgsm):
        inside = (clean >= attack.epsilon) & (clean <= 1 - attack.epsilon)
        assert torch.allclose(found[inside], best[inside], atol=1e-6)
        assert torch.allclose(found, best, atol=1e-6)


@pytest.mark.numerical
@pytest.mark.parametrize("make", [Pgd, MiFgsm])
def test_more_steps_are_not_worse(make: Callable[..., PixelAttack], network: torch.nn.Module, images: ImageSet) -> None:
    means = []
    for steps in (1, 3, 10, 30):
        attack = make(name="x", steps=steps, step_size=1 / 255, epsilon=4 / 255)
        found = adversarial(attack, network, images).textures
        means.append((int(fooled(network, images, found).sum()), float(losses(network, found, images.labels).mean())))
    successes, mean_losses = zip(*means, strict=True)
    assert list(successes) == sorted(successes)
    assert mean_losses[0] < mean_losses[1] < mean_losses[2] <= mean_losses[3] + 1e-3


@pytest.mark.numerical
def test_pgd_is_stronger_than_fgsm_and_a_random_start_still_draws_per_image(
    network: torch.nn.Module, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    epsilon = 2 / 255
    single = losses(network, adversarial(Fgsm(name="fgsm", epsilon=epsilon), network, images).textures, images.labels)
    attack = Pgd(name="pgd", epsilon=epsilon)
    whole = adversarial(attack, network, images, seed=3).textures
    assert float(losses(network, whole, images.labels).mean()) > float(single.mean())
    # A step too small to be seen leaves the start, which no processor's order of sums moves.
    start = Pgd(name="pgd", epsilon=epsilon, steps=1, step_size=1e-7)
    drawn = adversarial(start, network, images, seed=3).textures
    monkeypatch.setattr(loops, "PER_IMAGE_BATCH", 7)
    assert torch.allclose(adversarial(start, network, images, seed=3).textures, drawn, atol=1e-6), "other draws"
    assert not torch.allclose(adversarial(start, network, images, seed=4).textures, drawn, atol=1e-3)


def test_the_random_start_fills_the_ball(network: torch.nn.Module) -> None:
    spy = Spy(network)
    grey = labelled(network, torch.full((64, 3, SIDE, SIDE), 128, dtype=torch.uint8))
    adversarial(Pgd(name="pgd", steps=1, epsilon=0.03), spy, grey)
    change = (spy.iterates[0] - to_float(grey.pixels)).flatten() / 0.03
    assert change.abs().max() <= 1 + 1e-5
    assert float(change.mean()) == pytest.approx(0, abs=0.02)
    assert float(change.var()) == pytest.approx(1 / 3, abs=0.02), "uniform on [-1, 1]"


@pytest.mark.parametrize(
    "attack", [*ATTACKS, AutoAttack(name="autoattack", steps=3, queries=5)], ids=[*NAMES, "autoattack"]
)
def test_epsilon_0_leaves_the_image(attack: PixelAttack, network: torch.nn.Module, images: ImageSet) -> None:
    patch = adversarial(attack.model_copy(update={"epsilon": 0.0}), network, images)
    assert torch.equal((patch.textures * 255).round().to(torch.uint8), images.pixels)


@pytest.mark.numerical
def test_several_targets_each_have_their_own_image(network: torch.nn.Module, images: ImageSet) -> None:
    attack = Pgd(name="pgd", targets=(4, 0))
    patch = attack.craft(task_for(attack, network, images))
    assert patch.goals == (Targeted(4), Targeted(0))
    for index, target in enumerate((4, 0)):
        own, other = patch.for_goal(index).textures, patch.for_goal(1 - index).textures
        aimed = torch.full_like(images.labels, target)
        assert (losses(network, own, aimed) < losses(network, other, aimed)).all()


@pytest.mark.parametrize(
    ("attack", "field", "value", "message"),
    [
        (Fgsm, "size", 6, "a pixel attack covers the whole image: expected 100%, found 6x6"),
        (Pgd, "size", "50%", "a pixel attack covers the whole image: expected 100%, found 50%"),
        (Pgd, "epsilon", 0.003, r"at least 1/255 = 0.003922, the smallest change .* found 0.003"),
        (Pgd, "epsilon", 1.5, "less than or equal to 1"),
        (MiFgsm, "decay", -1, "greater than or equal to 0"),
        (MiFgsm, "step_size", 0, "greater than 0"),
        (Fgsm, "steps", 5, "Extra inputs"),
        (AutoAttack, "targets", "all", "takes no target: expected untargeted, found all; pgd takes targets"),
        (AutoAttack, "targets", (1,), "takes no target"),
    ],
)
def test_fields_are_checked(attack: type[PixelAttack], field: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        attack.model_validate({"name": "x", field: value})


def test_the_usual_goal_is_any_wrong_class() -> None:
    for attack in (Fgsm, Pgd, MiFgsm, AutoAttack):
        made = attack(name="x")
        assert made.goals(10) == (Untargeted(),)
        assert made.size == Size(percent=100)
        assert made.size.side(32) == 32
        assert made.covers == "image"


def broken_after(network: Network, calls: int) -> Network:
    seen = 0

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += 1
        return network(inputs) * (float("nan") if seen > calls else 1)

    return answer


@pytest.mark.parametrize(("calls", "message"), [(0, "at step 0 of 4"), (1, "after step 1 of 4"), (4, "at step 2 of 4")])
def test_logits_that_are_not_finite_are_an_error(
    calls: int, message: str, network: torch.nn.Module, images: ImageSet
) -> None:
    with pytest.raises(AttackError, match=message):
        adversarial(Pgd(name="pgd", steps=4), broken_after(network, calls), images)


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 10, 150])
def test_autoattack_does_not_take_a_broken_network_for_a_robust_one(
    calls: int, network: torch.nn.Module, images: ImageSet
) -> None:
    with pytest.raises(AttackError, match="not finite"):
        adversarial(
            AutoAttack(name="autoattack", epsilon=1 / 255, steps=20, queries=50), broken_after(network, calls), images
        )


EPSILON = 2 / 255  # at which some images hold against AutoAttack


@pytest.fixture(scope="module")
def worst_case(network: torch.nn.Module, images: ImageSet) -> Patch:
    return adversarial(AutoAttack(name="autoattack", epsilon=EPSILON, queries=100), network, images)


@pytest.mark.numerical
def test_autoattack_is_at_least_as_strong_as_pgd_on_each_image(
    worst_case: Patch, network: torch.nn.Module, images: ImageSet
) -> None:
    by_autoattack = fooled(network, images, worst_case.textures)
    by_pgd = fooled(network, images, adversarial(Pgd(name="pgd", epsilon=EPSILON), network, images).textures)
    assert 0 < int(by_pgd.sum()) < COUNT, "all or nothing: the test is void"
    assert (by_autoattack | ~by_pgd).all()
    assert not by_autoattack.all()


def test_autoattack_returns_8_bit_images_inside_the_ball_and_clean_ones_where_it_fails(
    worst_case: Patch, network: torch.nn.Module, images: ImageSet
) -> None:
    change = worst_case.textures * 255 - images.pixels
    assert torch.allclose(change, change.round(), atol=1e-4)
    assert float(change.abs().max()) == pytest.approx(2, abs=1e-4)
    held = ~fooled(network, images, worst_case.textures)
    assert torch.equal(worst_case.textures[held], to_float(images.pixels[held]))


def test_stages_of_autoattack_add_up(worst_case: Patch, network: torch.nn.Module, images: ImageSet) -> None:
    stages = worst_case.stages
    assert [(stage.attack, stage.access) for stage in stages] == [
        ("apgd-ce", "gradient"), ("apgd-t", "gradient"), ("fab-t", "gradient"), ("square", "scores"),
    ]  # fmt: skip
    assert stages[0].attacked == COUNT
    for before, after in zip(stages, stages[1:], strict=False):
        assert after.attacked == before.attacked - before.broken
    assert sum(stage.broken for stage in stages) == int(fooled(network, images, worst_case.textures).sum())
    assert len(worst_case.history) == 4
    assert list(worst_case.history) == sorted(worst_case.history, reverse=True), "parts never undo what others did"


def test_images_that_are_wrong_when_clean_are_not_attacked(network: torch.nn.Module, images: ImageSet) -> None:
    labels = images.labels.clone()
    labels[:20] = (labels[:20] + 1) % CLASSES
    attack = AutoAttack(name="autoattack", epsilon=EPSILON, steps=2, queries=2)
    patch = adversarial(attack, network, ImageSet(images.pixels, labels, images.ids))
    assert patch.stages[0].attacked == COUNT - 20
    assert torch.equal(patch.textures[:20], to_float(images.pixels[:20]))
    assert patch.attacked is not None
    assert patch.attacked.tolist() == [False] * 20 + [True] * (COUNT - 20)


@pytest.mark.numerical
def test_autoattack_is_the_library_s_own_standard_evaluation(
    worst_case: Patch, network: torch.nn.Module, images: ImageSet
) -> None:
    """Its driver, which runs the four parts itself, from the same seed."""
    generator = forked(draws(0))  # the generator of the first goal, seeded as `adversarial` does
    draws_of_task = task_for(AutoAttack(name="autoattack"), network, images, seed=0).generator
    assert torch.equal(forked(draws_of_task).get_state(), generator.get_state())
    seed = int(torch.randint(2**31, (1,), generator=generator))
    tracing = sys.gettrace()
    with torch.random.fork_rng():
        library = importlib.import_module("pyautoattack").AutoAttack(network, eps=EPSILON, seed=seed, device="cpu")
        library.square.n_queries = 100
        library.apgd_targeted.n_target_classes = library.fab.n_target_classes = CLASSES - 1
        expected, _ = library.run_standard_evaluation(to_float(images.pixels), images.labels)
    sys.settrace(tracing)  # which the library switched off
    theirs, own = fooled(network, images, expected), fooled(network, images, worst_case.textures)
    assert torch.equal(theirs, own)
    # The same points, but for rounding.
    assert float((expected - worst_case.textures).abs().amax()) <= 0.5 / 255 + 1e-5


def states() -> tuple[object, ...]:
    """Of the three global generators."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 (it is this one that must not move)
    return torch.get_rng_state().tolist(), repr(legacy), random.getstate()


def test_whatever_the_library_draws_or_warns_of_stays_inside(
    network: torch.nn.Module, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that does it all, and one that fails in the middle of it."""

    def perturb(part: object, clean: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        torch.rand(1), random.random(), np.random.rand()  # noqa: B018, NPY002 (drawing is the point)
        warnings.warn("zero gradient", stacklevel=1)
        if fails:
            raise AttackError("gave up")
        return clean

    monkeypatch.setattr(importlib.import_module("pyautoattack.square").SquareAttack, "perturb", perturb)
    attack = AutoAttack(name="autoattack", epsilon=1 / 255, steps=1)
    before = states()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fails = False
        assert adversarial(attack, network, images).stages[-1].attacked > 0, "no image left: the test is void"
        fails = True
        with pytest.raises(AttackError, match="gave up"):
            adversarial(attack, network, images)
    assert states() == before
    assert caught == []


def test_nothing_of_the_library_is_noticed_outside(images: ImageSet, capfd: pytest.CaptureFixture[str]) -> None:
    """Global generators, tracing, warnings, output and gradients of the weights."""
    network = Smooth().eval()  # whose parameters require gradients

    def tracer(*_: object) -> None:
        return None

    before, traced = states(), sys.gettrace()
    sys.settrace(tracer)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adversarial(AutoAttack(name="autoattack", epsilon=EPSILON, steps=5, queries=20), network, images)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(traced)
    assert states() == before
    assert [str(warning.message) for warning in caught] == []
    assert capfd.readouterr() == ("", "")
    assert [name for name, parameter in network.named_parameters() if parameter.grad is not None] == []


def test_autoattack_takes_its_randomness_from_the_task_and_not_from_the_world(
    network: torch.nn.Module, images: ImageSet
) -> None:
    attack = AutoAttack(name="autoattack", epsilon=EPSILON, steps=5, queries=20)
    first = adversarial(attack, network, images, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        again = adversarial(attack, network, images, seed=5)
    assert torch.equal(first.textures, again.textures)
    # Few images are left to the parts that draw, and one draw may find what another did.
    others = (adversarial(attack, network, images, seed=seed) for seed in range(6, 12))
    assert any(not torch.equal(first.textures, other.textures) for other in others)


def test_a_part_may_write_into_the_logits_it_is_given(images: ImageSet) -> None:
    """Square Attack does; a network whose logits are a view of its input must not have its images changed."""
    seen: list[torch.Tensor] = []

    def view(inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs)
        return inputs.flatten(1)[:, :CLASSES]

    own = labelled(view, images.pixels)
    seen.clear()
    adversarial(AutoAttack(name="autoattack", epsilon=EPSILON, steps=2, queries=5), view, own)
    assert seen, "the network was never asked"
    assert all(bool(torch.isfinite(inputs).all()) for inputs in seen)


@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_classes_for_autoattack_are_an_error(classes: int, images: ImageSet) -> None:
    network = linear_network(torch.randn(classes, 3 * SIDE * SIDE, generator=draws(1))).requires_grad_(False)
    with pytest.raises(AttackError, match=f"at least 4 classes .* found {classes}; pgd works with any number"):
        adversarial(AutoAttack(name="autoattack", steps=2), network, labelled(network, images.pixels))


def test_a_missing_library_is_an_error_that_says_how_to_install_it(
    network: torch.nn.Module, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "pyautoattack"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(AttackError, match=r"pyautoattack, which cannot .* pip install 'qpatchbench\[autoattack\]'"):
        adversarial(AutoAttack(name="autoattack"), network, images)
