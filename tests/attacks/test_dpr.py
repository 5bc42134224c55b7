"""Deformable patches: optima given the shape, what the shape gains, budgets, phases, restarts, batches."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from qpatchbench.attacks.base import Attack
from qpatchbench.attacks.dpr import Dpr
from qpatchbench.component import Component
from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.deformable_patches import boxes_around, fitted_mask, sectors_of
from qpatchbench.ops.patches.locating import upright
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import ImageDraws, forked
from qpatchbench.testing import ComponentCheck, parametrize_with_checks
from qpatchbench.testing.fixtures.oracles import linear_network
from qpatchbench.types import CraftTask, Goal, ImageSet, Network, Patch, Placement, Targeted, Untargeted

SIDE, SIZE, COUNT = 16, 4, 12
PIXELS = 3 * SIDE * SIDE


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dpr(**fields: object) -> Dpr:
    return Dpr.model_validate({"name": "dpr", "size": SIZE, "steps": 40, "texture_steps": 40, "restarts": 1, **fields})


def images_of(count: int = COUNT, label: int = 0) -> ImageSet:
    pixels = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), generator=draws(0), dtype=torch.uint8)[:count]
    return ImageSet(pixels, torch.full((count,), label), tuple(map(str, range(count))))


def black(count: int, side: int = SIDE) -> ImageSet:
    return ImageSet(torch.zeros(count, 3, side, side, dtype=torch.uint8), torch.zeros(count).long(), ("",) * count)


def places(count: int = COUNT, size: int = SIZE) -> Placement:
    """Random ones; the first two are corners."""
    placement = sample_placement(COUNT, (SIDE, SIDE), (size, size), draws(1))
    placement.rows[:2], placement.columns[:2] = torch.tensor([0, SIDE - size]), torch.tensor([0, SIDE - size])
    return placement[slice(0, count)]


def crafted(attack: Attack, network: Network, images: ImageSet, *goals: Goal, at: Placement | None = None) -> Patch:
    own = places(len(images), attack.size.side(images.side)) if at is None else at
    return attack.craft(CraftTask((network,), goals, images[:0], draws(2), attacked=images, placement=own))


def random_network(classes: int = 4) -> Network:
    """Linear, in float64, so that the size of a batch changes no step."""
    network = linear_network(0.1 * torch.randn(classes, PIXELS, generator=draws(5))).double().requires_grad_(False)

    def exact(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(images.double())
        return logits

    return exact


def covered(patch: Patch, images: ImageSet) -> torch.Tensor:
    """Which pixels of the images each mask covers, (P, H, W) bool."""
    assert patch.placement is not None
    dark = torch.zeros(len(patch.masks), 3, images.side, images.side)
    return paste(dark, torch.ones_like(patch.textures), patch.masks, patch.placement)[:, 0] > 0


@pytest.mark.numerical
@pytest.mark.parametrize("goal", [Targeted(1), Untargeted()], ids=str)
@pytest.mark.parametrize("rays", [4, 7, 12])
def test_the_optimum_under_the_final_mask_is_reached(goal: Goal, rays: int) -> None:
    """At least 95 % of what the best texture adds to the margin, on every image, corners included."""
    weight = 0.1 * torch.randn(2, PIXELS, generator=draws(3))
    images = images_of()
    patch = crafted(dpr(rays=rays), linear_network(weight).requires_grad_(False), images, goal)
    slope = (weight[1] - weight[0]).view(3, SIDE, SIDE)
    under = covered(patch, images).unsqueeze(1)
    assert patch.placement is not None
    values = paste(torch.zeros(COUNT, 3, SIDE, SIDE), patch.textures, patch.masks, patch.placement)
    gained = (slope * values * under).sum(dim=(1, 2, 3))
    best = (slope.clamp(min=0) * under).sum(dim=(1, 2, 3))
    assert (gained >= 0.95 * best).all()


def bar(height: int, width: int, side: int = 32) -> torch.Tensor:
    """Weight (2, pixels) of a network that looks at one bar in the middle of the image and nowhere else."""
    look = torch.zeros(3, side, side)
    rows, columns = side // 2 - height // 2, side // 2 - width // 2
    look[:, rows : rows + height, columns : columns + width] = 1
    return torch.stack([torch.zeros(look.numel()), look.flatten()])


@pytest.mark.numerical
@pytest.mark.parametrize(("height", "width"), [(4, 12), (12, 4)])
@pytest.mark.parametrize("goal", [Targeted(1), Untargeted()], ids=str)
@pytest.mark.parametrize("scale", [2e-4, 0.05])
def test_the_shape_follows_what_the_network_looks_at(height: int, width: int, goal: Goal, scale: float) -> None:
    """Of a bar of 48 pixels about the centre, a square of 36 pixels holds 24; at any scale of the logits."""
    images, centre = black(2, 32), torch.tensor([13, 13])
    network = linear_network(scale * bar(height, width)).requires_grad_(False)
    look = bar(height, width)[1].view(3, 32, 32)[0] > 0

    def inside(**fields: object) -> int:
        patch = crafted(dpr(size=6, **fields), network, images, goal, at=upright(centre, centre))
        assert patch.masks.sum(dim=(1, 2, 3)).max() <= 36
        return int((covered(patch, images)[0] & look).sum())

    square = int(look[13:19, 13:19].sum())
    circle = inside(steps=0)
    assert square == 24
    assert circle <= 24
    assert inside(steps=150) == 36, "every pixel of the shape is on the bar"


@pytest.mark.parametrize("rays", [3, 7, 12])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_area_never_exceeds_the_budget(rays: int, size: int) -> None:
    """Not even where the loss cries for area, nothing holds it back and rays leap from end to end."""
    images = black(COUNT)
    network = linear_network(torch.stack([torch.zeros(PIXELS), torch.ones(PIXELS)])).requires_grad_(False)
    attack = dpr(size=size, rays=rays, shape_step_size=50.0, area_weight=0.0, steps=5, texture_steps=1, restarts=3)
    patch = crafted(attack, network, images, Targeted(0), Untargeted())
    areas = patch.masks.sum(dim=(1, 2, 3))
    assert areas.max() <= size**2
    assert areas.min() >= 1
    assert ((patch.masks == 0) | (patch.masks == 1)).all()


@pytest.mark.numerical
def test_the_hinge_holds_the_area_before_it_is_cut() -> None:
    """Where every pixel pays, the soft area grows without the hinge and stays at the budget with it."""
    network = linear_network(0.01 * torch.stack([torch.zeros(PIXELS), torch.ones(PIXELS)])).requires_grad_(False)

    def area(weight: float) -> float:
        """Mean over images of what the network last saw lit in the joint phase."""
        seen: list[torch.Tensor] = []

        def watched(images: torch.Tensor) -> torch.Tensor:
            seen.append(images.detach())
            logits: torch.Tensor = network(images)
            return logits

        crafted(dpr(area_weight=weight, steps=150, texture_steps=0), watched, black(COUNT), Targeted(1))
        return float(seen[149][2:, 0].sum(dim=(1, 2)).mean())

    assert area(0.0) > 1.5 * SIZE**2
    assert area(2.0) == pytest.approx(SIZE**2, rel=0.1)


def test_the_centre_is_that_of_the_suite() -> None:
    """Mean of the covered pixels of a circle; at the border its part outside is cut off, not moved."""
    images, own = images_of(), places()
    patch = crafted(dpr(steps=0, texture_steps=1), random_network(), images, Untargeted())
    masks = covered(patch, images)
    for mask, row, column in zip(masks, own.rows.tolist(), own.columns.tolist(), strict=True):
        pixels = mask.nonzero().double()
        if 1 <= row < SIDE - SIZE and 1 <= column < SIDE - SIZE:
            assert pixels.mean(dim=0).tolist() == [row + 1.5, column + 1.5]
        else:
            assert mask[row + 1 : row + 3, column + 1 : column + 3].all()


def reference(network: Network, images: ImageSet, masks: torch.Tensor, places: Placement, start: torch.Tensor) -> Patch:
    """Texture-only Adam on the margin under given masks, written out for one goal: untargeted, label 0."""
    textures = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([textures], lr=0.05)
    kept: list[tuple[bool, float, torch.Tensor]] = [(False, float("inf"), start[0])] * len(start)
    for _ in range(21):
        rounded = textures + (round_to_8_bit(textures.detach()) - textures.detach())
        logits = network(paste(to_float(images.pixels), rounded, masks, places)).float()
        margins = logits[:, 0] - logits[:, 1:].amax(dim=1)
        for index, margin in enumerate(margins.tolist()):
            if (margin >= 0, margin) < (not kept[index][0], kept[index][1]):
                kept[index] = (margin < 0, margin, rounded[index].detach().clone())
        (textures.grad,) = torch.autograd.grad(margins.sum(), textures)
        optimizer.step()
        with torch.no_grad():
            textures.clamp_(0, 1)
    return Patch(torch.stack([texture for _, _, texture in kept]), masks, (Untargeted(),), placement=places)


def test_a_frozen_circle_is_an_attack_on_the_texture_alone() -> None:
    """To the bit: without joint steps it is Adam under a circular mask, started at the same noise."""
    images, network = images_of(), random_network()
    patch = crafted(dpr(steps=0, texture_steps=20), network, images, Untargeted())
    boxes = boxes_around(places(), SIZE, 2 * SIZE, SIDE)
    circles = fitted_mask(torch.ones(COUNT, 12), sectors_of(boxes.centres, 2 * SIZE, 12), SIZE**2)
    assert torch.equal(patch.masks, circles)
    own = forked(draws(2))  # of the only goal
    start = ImageDraws.of(COUNT, forked(own), torch.device("cpu")).uniform(3, 2 * SIZE, 2 * SIZE)
    by_hand = reference(network, images, circles, boxes.placement, start)
    assert torch.equal(patch.textures, by_hand.textures)


@pytest.mark.numerical
def test_rays_without_a_step_size_stay() -> None:
    images, network = images_of(), random_network()
    moving, frozen, circle = (
        crafted(dpr(**fields), network, images, Targeted(1)).masks
        for fields in ({}, {"shape_step_size": 0.0}, {"steps": 0})
    )
    assert torch.equal(frozen, circle)
    assert (moving != circle).any(dim=(1, 2, 3)).sum() >= COUNT // 2


def test_what_is_kept_is_the_best_of_the_second_phase() -> None:
    """Judged at 8 bits under the final mask: no iterate that the network was shown then beats what comes back."""
    images, network = images_of(), random_network()
    seen: list[torch.Tensor] = []

    def watched(patched: torch.Tensor) -> torch.Tensor:
        seen.append(patched.detach())
        return network(patched)

    attack = dpr(step_size=0.4, steps=10, texture_steps=15)
    patch = crafted(attack, watched, images, Untargeted())
    assert len(seen) == 26
    assert patch.placement is not None
    final = paste(to_float(images.pixels), patch.textures, patch.masks, patch.placement)
    assert torch.equal(round_to_8_bit(patch.textures), patch.textures)

    def margins(patched: torch.Tensor) -> torch.Tensor:
        logits = network(patched).float()
        return logits[:, 0] - logits[:, 1:].amax(dim=1)

    second = torch.stack([margins(patched) for patched in seen[10:]])
    assert torch.equal(margins(final), second.amin(dim=0)), "on the images whose margin is judged as it is"
    shown = torch.stack(seen[10:])
    outside = ~covered(patch, images).unsqueeze(1).expand(-1, 3, -1, -1)
    assert torch.equal(shown[:, outside], to_float(images.pixels)[outside].expand(16, -1))
    assert (torch.stack(seen[:10])[:, outside] != to_float(images.pixels)[outside]).any(), "the joint mask is soft"


class Reluctant:
    """A network that gives in to only some images: the others have a margin that no patch overcomes."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.sizes: list[int] = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        stubborn = (images[:, 0, -1, 0] > 0.5).double()
        return self.network(images) + 1000 * stubborn.view(-1, 1) * torch.tensor([1.0, 0, 0, 0])


def test_only_unbroken_images_are_tried_again() -> None:
    images = images_of()
    images.pixels[:, 0, -1, 0] = 0
    images.pixels[::3, 0, -1, 0] = 255  # four stubborn ones
    away = upright(torch.zeros(COUNT).long(), torch.arange(COUNT))  # no patch covers that pixel
    attacks = [dpr(steps=20, texture_steps=20, restarts=restarts) for restarts in (1, 3)]
    networks = [Reluctant(random_network()) for _ in attacks]
    once, thrice = (
        crafted(attack, network, images, Untargeted(), at=away)
        for attack, network in zip(attacks, networks, strict=True)
    )
    assert networks[0].sizes == [12] * 41
    assert networks[1].sizes == [12] * 41 + [4] * 82
    broken = torch.arange(COUNT) % 3 > 0
    assert torch.equal(thrice.textures[broken], once.textures[broken])
    assert torch.equal(thrice.masks[broken], once.masks[broken])
    assert thrice.history == once.history, "that of the first run"


@pytest.mark.numerical
def test_restarts_begin_with_other_shapes_and_keep_the_best() -> None:
    """A network with a large margin, so that nothing breaks and every image is tried every time."""
    weight = 0.05 * torch.randn(4, PIXELS, generator=draws(8))
    network = linear_network(weight).requires_grad_(False)
    images = images_of()

    def guarded(patched: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(patched)
        return logits + torch.tensor([100.0, 0, 0, 0])

    found = [crafted(dpr(restarts=restarts), guarded, images, Untargeted()) for restarts in (1, 2, 4)]

    def losses(patch: Patch) -> torch.Tensor:
        assert patch.placement is not None
        logits = guarded(paste(to_float(images.pixels), patch.textures, patch.masks, patch.placement))
        return logits[:, 0] - logits[:, 1:].amax(dim=1)

    for fewer, more in zip(found, found[1:], strict=False):
        assert (losses(more) <= losses(fewer)).all()
        assert (losses(more) < losses(fewer)).any()
        same = (more.masks == fewer.masks).all(dim=(1, 2, 3))
        assert torch.equal(losses(more)[same], losses(fewer)[same])


@pytest.mark.numerical
def test_batches_and_neighbours_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network, attack, goals = random_network(), dpr(steps=12, texture_steps=8, restarts=2), (Targeted(1), Untargeted())
    whole = crafted(attack, network, images_of(), *goals)
    for size in (1, 5, 11):
        monkeypatch.setattr(loops, "PER_IMAGE_BATCH", size)
        split = crafted(attack, network, images_of(), *goals)
        assert torch.equal(split.masks, whole.masks)
        assert torch.allclose(split.textures, whole.textures, atol=1.01 / 255)
        assert split.history == pytest.approx(whole.history, abs=1e-4)
    few = crafted(attack, network, images_of(5), *goals)
    for goal in (0, 1):
        assert torch.equal(few.for_goal(goal).masks, whole.for_goal(goal).masks[:5])
        assert torch.allclose(few.for_goal(goal).textures, whole.for_goal(goal).textures[:5], atol=1.01 / 255)


def test_passes_and_history_count_every_step() -> None:
    calls = [0, 0]
    network = Reluctant(random_network())

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls[images.requires_grad] += 1
        return network(images)

    images = images_of()
    images.pixels[:, 0, -1, 0] = 255
    attack, away = dpr(steps=6, texture_steps=4, restarts=2), upright(torch.zeros(COUNT).long(), torch.arange(COUNT))
    patch = crafted(attack, counted, images, Untargeted(), at=away)
    assert calls == [0, 2 * 11], "10 steps and the last iterate"
    assert attack.passes() == 2 * (3 * 10 + 1)
    assert len(patch.history) == 10


def test_a_patch_may_be_as_large_as_the_image() -> None:
    network, images = random_network(), images_of(4)
    corner = upright(torch.zeros(4).long(), torch.zeros(4).long())
    patch = crafted(dpr(size=SIDE, steps=2, texture_steps=2), network, images, Untargeted(), at=corner)
    assert patch.masks.shape == (4, 1, SIDE, SIDE)
    assert patch.masks.eq(1).all()


@pytest.mark.parametrize(("bad_step", "message"), [(3, "at step 3 of 5"), (7, "at step 2 of 4 under the final mask")])
def test_an_error_says_where(bad_step: int, message: str) -> None:
    network, calls = random_network(), [0]

    def breaking(images: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return network(images) * (float("nan") if calls[0] == bad_step + 1 else 1)

    with pytest.raises(AttackError, match=message):
        crafted(dpr(steps=5, texture_steps=4), breaking, images_of(), Untargeted())


@parametrize_with_checks([dpr(steps=3, texture_steps=3, restarts=2)])
def test_conformance_with_both_phases(component: Component, check: ComponentCheck) -> None:
    check(component)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", -1),
        ("texture_steps", -1),
        ("rays", 2),
        ("step_size", 0),
        ("step_size", 1.5),
        ("shape_step_size", -0.1),
        ("sharpness", (0.0, 10.0)),
        ("sharpness", (20.0, 10.0)),
        ("area_weight", -1),
        ("restarts", 0),
    ],
)
def test_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        dpr(**{field: value})
