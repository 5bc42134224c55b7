"""The two crafting loops: best iterates, independence of goals and of batching, errors, progress."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.loops import GREY, Crafted, per_image_patches, universal_patches
from qpatchbench.ops.crafting.losses import cross_entropy, goal_classes, logit_difference
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import forked
from qpatchbench.types import (
    CraftTask,
    Goal,
    ImageSet,
    Network,
    Patch,
    Placement,
    Progress,
    Targeted,
    Untargeted,
    silent,
)

SIDE, SIZE, CLASSES = 8, 3, 4


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> ImageSet:
    generator = draws(0)
    pixels = torch.randint(0, 256, (40, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(40) % CLASSES, tuple(map(str, range(40))))


@pytest.fixture
def network() -> torch.nn.Module:
    generator = draws(1)
    layers = [torch.nn.Conv2d(3, 6, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(6 * 36, CLASSES)]
    module = torch.nn.Sequential(*layers).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    return module


def anywhere(count: int, generator: torch.Generator) -> Placement:
    return sample_placement(count, (SIDE, SIDE), (SIZE, SIZE), generator)


def alone(
    network: Network, images: ImageSet, goal: Goal, placement: Placement, *, seed: int, progress: Progress = silent
) -> CraftTask:
    return CraftTask((network,), (goal,), images, draws(seed), attacked=images, placement=placement, progress=progress)


def universal(
    network: Network,
    images: ImageSet,
    goals: tuple[Goal, ...],
    *,
    steps: int = 20,
    step_size: float = 0.05,
    seed: int = 3,
) -> Crafted:
    return universal_patches(
        CraftTask((network,), goals, images, draws(seed)), side=SIZE, objective=cross_entropy, placer=anywhere,
        steps=steps, step_size=step_size, batch_size=16,
    )  # fmt: skip


def per_image(
    network: Network, images: ImageSet, goal: Goal, *, steps: int = 12, step: float = 0.05, progress: Progress = silent
) -> Patch:
    def signed(textures: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return textures - step * gradient.sign()

    return per_image_patches(
        alone(network, images, goal, anywhere(len(images), draws(5)), seed=6, progress=progress),
        side=SIZE, objective=logit_difference, update=signed, steps=steps,
    )  # fmt: skip


class Valley(torch.nn.Module):
    """Logits (0, margin) with margin = -(mean - 0.6)^2, so that a step too large overshoots the best brightness."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 2)."""
        brightness = images[:, :, :SIZE, :SIZE].mean(dim=(1, 2, 3))
        margin = -(brightness - 0.6).square()
        return torch.stack([torch.zeros_like(margin), 10 * margin], dim=1)


def corner(count: int, generator: torch.Generator) -> Placement:
    zeros = torch.zeros(count, dtype=torch.int64)
    return Placement(zeros, zeros, torch.zeros(count), torch.ones(count))


def two_class(images: ImageSet) -> ImageSet:
    return ImageSet(images.pixels, torch.zeros(len(images), dtype=torch.int64), images.ids)


@pytest.mark.numerical
def test_per_image_keeps_the_best_iterate_not_the_last(images: ImageSet) -> None:
    """Steps of 0.4 jump between the two slopes of the valley for ever; the best visit is what must be kept."""
    images, network = two_class(images), Valley()
    visited: list[torch.Tensor] = []

    def jump(textures: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        visited.append(textures.clone())
        return textures - 0.4 * gradient.sign()

    crafted = per_image_patches(
        alone(network, images, Targeted(1), corner(40, draws(0)), seed=1),
        side=SIZE, objective=logit_difference, update=jump, steps=9,
    )  # fmt: skip
    last = jump(visited[-1], torch.zeros_like(visited[-1]))
    candidates = torch.stack(visited)  # the final iterate is judged too, but here never better: see below

    def loss(textures: torch.Tensor) -> torch.Tensor:
        return 10 * (textures.mean(dim=(-1, -2, -3)) - 0.6).square()

    best = loss(candidates).min(dim=0)
    kept = loss(crafted.textures)
    assert (kept <= best.values + 1e-6).all(), "a visited patch was better than the one kept"
    assert float(kept.mean()) < 0.9 * float(loss(last).mean()), "the last iterate is as good: the test is void"


@pytest.mark.numerical
def test_success_counts_before_loss(images: ImageSet) -> None:
    """An iterate that succeeds is kept although a failing one has a lower loss."""
    images = two_class(images)[:2]

    def objective(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return logits[:, 2]  # unrelated to success; falls with every step

    def network(pasted: torch.Tensor) -> torch.Tensor:
        value = pasted[:, 0, 0, 0]
        won = ((value > 0.3) & (value < 0.5)).float()  # class 1 only in a window that the descent passes through
        return torch.stack([torch.full_like(value, 2.0), 3 * won, value - 5], dim=1)

    def darken(textures: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return textures - 0.05

    crafted = per_image_patches(
        alone(network, images, Targeted(1), corner(2, draws(0)), seed=12),
        side=SIZE, objective=objective, update=darken, steps=25,
    )  # fmt: skip
    start = torch.rand(2, 3, SIZE, SIZE, generator=forked(draws(12)))[:, 0, 0, 0]
    assert (start > 0.5).any(), "no start above the window: the test is void"
    kept = crafted.textures[start > 0.3, 0, 0, 0]
    assert ((kept > 0.3) & (kept < 0.5)).all()


def test_universal_keeps_the_best_checkpoint(images: ImageSet) -> None:
    images, network = two_class(images), Valley()

    def kept(steps: int) -> float:
        crafted = universal_patches(
            CraftTask((network,), (Targeted(1),), images, draws(2)),
        side=SIZE, objective=cross_entropy, placer=corner, steps=steps,
            step_size=0.9, batch_size=8
        )  # fmt: skip
        return abs(float(crafted.textures.mean()) - 0.6)

    start = abs(GREY - 0.6)
    distances = [kept(steps) for steps in (1, 2, 3, 5, 8, 10)]
    assert distances[0] <= start + 1e-6, "one wild step is worse than none, yet it was kept"
    # Up to CHECKPOINTS steps every iterate is judged and they share their beginning, but for the schedule.
    assert max(distances) <= start + 1e-6


def test_a_goals_patch_does_not_depend_on_the_other_goals(network: torch.nn.Module, images: ImageSet) -> None:
    """The number of goals decides the draws; what the others are decides nothing."""
    first = universal(network, images, (Targeted(0), Targeted(1), Targeted(2)))
    second = universal(network, images, (Targeted(0), Untargeted(), Targeted(3)))
    assert torch.allclose(first.textures[0], second.textures[0], atol=1e-5)
    assert not torch.allclose(first.textures[1], second.textures[1], atol=0.05)


class Stepwise:
    """A placer whose draws depend on the step only: every image of a step has the same place."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, count: int, generator: torch.Generator) -> Placement:
        self.calls += 1
        row, column = divmod(7 * self.calls % 36, 6)
        flat = torch.zeros(count)
        return Placement(torch.full((count,), row), torch.full((count,), column), flat, flat + 1)


@pytest.mark.parametrize("goal", [Targeted(0), Targeted(2), Untargeted()])
def test_a_goal_among_others_is_the_goal_alone_given_its_draws(
    network: torch.nn.Module, images: ImageSet, goal: Goal
) -> None:
    def crafted(goals: tuple[Goal, ...]) -> torch.Tensor:
        # The whole pool of 35 in every step makes the order of images irrelevant, and the first goal's initial
        # texture is the beginning of the stream however many goals follow.
        return universal_patches(
            CraftTask((network,), goals, images, draws(3)),
        side=SIZE, objective=cross_entropy, placer=Stepwise(), steps=20, step_size=0.05,
            batch_size=35
        ).textures  # fmt: skip

    alone = crafted((goal,))
    assert torch.allclose(crafted((goal, Targeted(1), Targeted(3)))[0], alone[0], atol=1e-4)


@pytest.mark.numerical
def test_untargeted_and_targeted_crafting_lower_their_loss(network: torch.nn.Module, images: ImageSet) -> None:
    for goal in (Targeted(1), Untargeted()):
        crafted = universal(network, images, (goal,), steps=60)
        assert len(crafted.history) == 60
        found = loss_at_fixed_places(network, images, goal, crafted.textures)
        for seed in range(5):
            noise = torch.rand(crafted.textures.shape, generator=draws(seed))
            assert found < loss_at_fixed_places(network, images, goal, noise)


def loss_at_fixed_places(network: Network, images: ImageSet, goal: Goal, texture: torch.Tensor) -> float:
    """Of all images, so that no draw of a batch decides."""
    places = anywhere(len(images), draws(9))
    textures = texture.expand(len(images), -1, -1, -1)
    pasted = paste(to_float(images.pixels), textures, torch.ones_like(textures[:, :1]), places)
    return float(cross_entropy(network(pasted), images.labels, goal_classes((goal,)).expand(len(images))).mean())


@pytest.mark.numerical
def test_per_image_results_do_not_depend_on_batching(
    network: torch.nn.Module, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = per_image(network, images, Untargeted())
    for size in (1, 7, 39):
        monkeypatch.setattr(loops, "PER_IMAGE_BATCH", size)
        split = per_image(network, images, Untargeted())
        assert torch.allclose(split.textures, whole.textures, atol=1e-5)
        assert split.history == pytest.approx(whole.history, abs=1e-5)


@pytest.mark.numerical
def test_per_image_patches_are_independent_of_the_other_images(network: torch.nn.Module, images: ImageSet) -> None:
    """Changing one image changes one patch."""
    changed = images.pixels.clone()
    changed[3] = 255 - changed[3]
    first = per_image(network, images, Targeted(2)).textures
    second = per_image(network, ImageSet(changed, images.labels, images.ids), Targeted(2)).textures
    others = torch.arange(40) != 3
    assert torch.allclose(first[others], second[others], atol=1e-6)
    assert not torch.allclose(first[3], second[3], atol=1e-3)


def test_logits_that_are_not_finite_are_an_error(images: ImageSet) -> None:
    def broken(pasted: torch.Tensor) -> torch.Tensor:
        return pasted.flatten(1)[:, :CLASSES] * float("nan")

    with pytest.raises(AttackError, match=r"not finite"):
        universal(broken, images, (Targeted(0), Untargeted()))
    with pytest.raises(AttackError, match=r"step 0 of 12"):
        per_image(broken, images, Untargeted())


def test_a_network_that_breaks_on_the_way_is_an_error(network: torch.nn.Module, images: ImageSet) -> None:
    calls = 0

    def breaking(pasted: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        logits: torch.Tensor = network(pasted)
        return logits * float("inf") if calls > 5 else logits

    with pytest.raises(AttackError, match=r"step 5 of 12"):
        per_image(breaking, images, Untargeted())


def test_a_network_that_is_broken_only_where_it_is_judged_is_an_error(images: ImageSet) -> None:
    """NaN on the held-out images would make every comparison false and keep the initial noise silently."""

    def network(pasted: torch.Tensor) -> torch.Tensor:
        logits = pasted.flatten(1)[:, :CLASSES]
        return logits * float("nan") if len(pasted) == 5 else logits

    with pytest.raises(AttackError, match="not finite"):
        universal(network, images, (Targeted(1),), steps=2)


@pytest.mark.parametrize(("side", "expected"), [(32, 256), (90, 256), (91, 253), (224, 41), (299, 23), (5000, 1)])
def test_large_images_are_attacked_in_smaller_parts(side: int, expected: int) -> None:
    """What a network remembers for a gradient grows with the pixels: 256 images of 224 pixels took over 20 GB."""
    assert loops.images_at_once(side) == expected
    parts = [*loops.image_parts(600, side)]
    assert [index for part in parts for index in range(part.start, part.stop)] == [*range(600)]
    assert {part.stop - part.start for part in parts[:-1]} == {expected}


def test_progress_shows_both_rates_of_targeted_patches(network: torch.nn.Module, images: ImageSet) -> None:
    """`asr` counts every wrong prediction, as a board does, and not the hits of the target class alone."""
    told: list[Mapping[str, float]] = []
    per_image(network, images, Targeted(1), progress=lambda _, figures: told.append(figures))
    assert {*told[-1]} == {"loss", "asr", "asr_targeted"}
    told.clear()
    per_image(network, images, Untargeted(), progress=lambda _, figures: told.append(figures))
    assert {*told[-1]} == {"loss", "asr"}


def test_progress_rises_to_one(network: torch.nn.Module, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "PER_IMAGE_BATCH", 16)
    told: list[float] = []

    def progress(fraction: float, figures: Mapping[str, float]) -> None:
        assert set(figures) - {"asr_targeted"} == {"loss", "asr"}
        assert 0 <= figures["asr"] <= 100
        told.append(fraction)

    per_image(network, images, Untargeted(), progress=progress)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
    told.clear()
    universal_patches(
        CraftTask((network,), (Targeted(0),), images, draws(3), progress=progress),
        side=SIZE, objective=cross_entropy, placer=anywhere, steps=7, step_size=0.05,
        batch_size=16
    )  # fmt: skip
    assert told == pytest.approx([step / 7 for step in range(1, 8)])


def test_every_crafting_image_is_used_before_one_is_repeated(images: ImageSet) -> None:
    seen: list[float] = []

    def network(pasted: torch.Tensor) -> torch.Tensor:
        if pasted.requires_grad:
            seen.extend(pasted.detach()[:, 0, 0, 7].tolist())  # a pixel that the patch at the corner leaves alone
        return pasted.flatten(1)[:, :CLASSES]

    marked = images.pixels.clone()
    marked[:, 0, 0, 7] = torch.arange(40)
    universal_patches(
        CraftTask((network,), (Targeted(0),), ImageSet(marked, images.labels, images.ids), draws(3)),
        side=SIZE, objective=cross_entropy,
        placer=corner, steps=14, step_size=0.05, batch_size=5
    )  # fmt: skip
    order = [round(value * 255) for value in seen]
    assert sorted(order[:35]) == sorted(order[35:]) == list(range(35)), "5 of 40 are held out, 35 are drawn in turn"
    assert order[:35] != order[35:]


def test_a_single_image_is_enough(network: torch.nn.Module, images: ImageSet) -> None:
    assert torch.isfinite(universal(network, images[:1], (Targeted(1),), steps=2).textures).all()
    assert per_image(network, images[:1], Targeted(1), steps=2).textures.shape == (1, 3, SIZE, SIZE)
