"""Location-optimised patches: exact optima, finding a window by moving, excluded boxes, batches."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from qpatchbench.attacks.rao import Rao
from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.losses import succeeded
from qpatchbench.ops.patches.locating import Box, allowed_places
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.testing.fixtures.oracles import linear_network
from qpatchbench.types import CraftTask, Goal, ImageSet, Network, Patch, Placement, Size, Targeted, Untargeted

SIDE, SIZE, COUNT = 10, 3, 20
PIXELS = 3 * SIDE * SIDE


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rao(**fields: object) -> Rao:
    return Rao.model_validate({"name": "rao", "size": SIZE, "restarts": 1, **fields})


def images_of(count: int = COUNT, label: int = 0) -> ImageSet:
    pixels = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), generator=draws(0), dtype=torch.uint8)[:count]
    return ImageSet(pixels, torch.full((count,), label), tuple(map(str, range(count))))


def places(count: int = COUNT) -> Placement:
    return sample_placement(COUNT, (SIDE, SIDE), (SIZE, SIZE), draws(1))[slice(0, count)]


def crafted(attack: Rao, network: Network, images: ImageSet, *goals: Goal, seed: int = 2) -> Patch:
    own = places(len(images))
    return attack.craft(CraftTask((network,), goals, images, draws(seed), attacked=images, placement=own))


def where(patch: Patch) -> torch.Tensor:
    assert patch.placement is not None
    return torch.stack([patch.placement.rows, patch.placement.columns], dim=1)


def hill(row: int, column: int) -> torch.Tensor:
    """Weight (2, pixels) of a network that looks hardest at the window there; smooth, so that a patch can climb."""
    rows, columns = (torch.arange(SIDE) - (start + SIZE // 2) for start in (row, column))
    bump = torch.exp(-(rows.view(-1, 1).square() + columns.square()) / 12.0)
    return torch.stack([torch.zeros(PIXELS), bump.expand(3, -1, -1).flatten()]) * 0.3


@pytest.mark.numerical
@pytest.mark.parametrize("goal", [Targeted(1), Untargeted()], ids=str)
def test_the_optimum_of_a_fixed_place_is_reached(goal: Goal) -> None:
    weight = 0.1 * torch.randn(2, PIXELS, generator=draws(3))
    network = linear_network(weight).requires_grad_(False)
    patch = crafted(rao(location="fixed"), network, images_of(), goal)
    slope = (weight[1] - weight[0]).view(3, SIDE, SIDE)
    assert torch.equal(where(patch), torch.stack([places().rows, places().columns], dim=1))
    for texture, (row, column) in zip(patch.textures, where(patch).tolist(), strict=True):
        window = slope[:, row : row + SIZE, column : column + SIZE]
        assert float((window * texture).sum()) >= 0.95 * float(window.clamp(min=0).sum())


@pytest.mark.numerical
@pytest.mark.parametrize(("row", "column"), [(0, 0), (7, 7), (3, 5)])
@pytest.mark.parametrize(("location", "steps"), [("full", 40), ("random", 120)])
def test_the_window_that_the_network_looks_at_is_found(row: int, column: int, location: str, steps: int) -> None:
    """On black images, from 20 places, with the exact optimum of texture and place; the last position included."""
    weight = hill(row, column)
    network = linear_network(weight).requires_grad_(False)
    black = ImageSet(torch.zeros(COUNT, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(COUNT).long(), ("",) * COUNT)
    patch = crafted(rao(location=location, stride=1, steps=steps), network, black, Targeted(1))
    assert where(patch).tolist() == [[row, column]] * COUNT
    assert patch.textures.min() >= 0.99, "every pixel of the window has a positive slope"


@pytest.mark.numerical
def test_moving_beats_staying() -> None:
    network = linear_network(hill(2, 6)).requires_grad_(False)
    lowest = [
        crafted(rao(location=location, stride=2, steps=40), network, images_of(), Untargeted()).history[-1]
        for location in ("fixed", "random", "full")
    ]
    assert lowest[0] > max(lowest[1:]) + 0.5


@pytest.mark.parametrize("location", ["fixed", "random", "full"])
def test_the_excluded_box_is_never_touched(location: str) -> None:
    """It covers what the network looks at, and many of the suite's places."""
    box = (3, 3, 3, 4)
    allowed = allowed_places((SIDE, SIDE), (SIZE, SIZE), Box(*box))
    inside = allowed[places().rows, places().columns]
    assert 0 < int(inside.sum()) < COUNT
    network = linear_network(hill(3, 3)).requires_grad_(False)
    patch = crafted(rao(location=location, stride=1, steps=30, excluded=box), network, images_of(), Untargeted())
    rows, columns = where(patch).unbind(dim=1)
    assert allowed[rows, columns].all()
    if location == "fixed":
        start = torch.stack([places().rows, places().columns], dim=1)
        assert torch.equal(where(patch)[inside], start[inside]), "an allowed start was moved"


def test_an_excluded_box_without_room_is_an_error() -> None:
    network = linear_network(hill(3, 3)).requires_grad_(False)
    with pytest.raises(AttackError, match="none; make the box or the patch smaller"):
        crafted(rao(excluded=(2, 2, 6, 6)), network, images_of(), Untargeted())


@pytest.mark.parametrize("location", ["random", "full"])
def test_stride_is_respected(location: str) -> None:
    network = linear_network(hill(4, 4)).requires_grad_(False)
    start = torch.stack([places().rows, places().columns], dim=1)
    for stride in (0, 2, 3):
        patch = crafted(rao(location=location, stride=stride, steps=25), network, images_of(), Untargeted())
        shift = where(patch) - start
        assert (shift % stride if stride else shift).eq(0).all()
        assert bool(shift.any()) == bool(stride)


@pytest.mark.parametrize("location", ["random", "full"])
def test_a_stride_of_zero_is_a_fixed_place(location: str) -> None:
    network = linear_network(hill(4, 4)).requires_grad_(False)
    still = crafted(rao(location=location, stride=0, steps=8), network, images_of(), Targeted(1), Untargeted())
    fixed = crafted(rao(location="fixed", steps=8), network, images_of(), Targeted(1), Untargeted())
    assert torch.equal(still.textures, fixed.textures)
    assert torch.equal(where(still), where(fixed))
    assert still.history == fixed.history


@pytest.mark.numerical
@pytest.mark.parametrize("location", ["fixed", "random", "full"])
def test_batches_and_neighbours_change_nothing(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = linear_network(0.1 * torch.randn(4, PIXELS, generator=draws(5))).double().requires_grad_(False)

    def exact(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(images.double())
        return logits

    attack = rao(location=location, steps=12)
    whole = crafted(attack, exact, images_of(), Targeted(1), Untargeted())
    for size in (1, 7, 19):
        monkeypatch.setattr(loops, "PER_IMAGE_BATCH", size)
        split = crafted(attack, exact, images_of(), Targeted(1), Untargeted())
        assert torch.allclose(split.textures, whole.textures, atol=1e-4)
        assert torch.equal(where(split), where(whole))
        assert split.history == pytest.approx(whole.history, abs=1e-5)
    few = crafted(attack, exact, images_of(6), Targeted(1), Untargeted())
    assert torch.allclose(few.for_goal(1).textures, whole.for_goal(1).textures[:6], atol=1e-4)
    assert torch.equal(where(few.for_goal(1)), where(whole.for_goal(1))[:6])


def hard_images() -> tuple[Network, ImageSet]:
    """A network of four classes whose images one start of few steps breaks in part."""
    network = linear_network(0.35 * torch.randn(4, PIXELS, generator=draws(8))).requires_grad_(False)
    pixels = images_of().pixels
    labels = network(to_float(pixels)).argmax(dim=1)
    return network, ImageSet(pixels, labels, tuple(map(str, range(COUNT))))


def broken(network: Network, images: ImageSet, patch: Patch) -> torch.Tensor:
    assert patch.placement is not None
    logits = network(paste(to_float(images.pixels), patch.textures, patch.masks, patch.placement))
    return succeeded(logits, images.labels, torch.full_like(images.labels, -1))


def test_later_starts_break_more_and_leave_the_broken_alone() -> None:
    network, images = hard_images()
    seen: list[int] = []

    def counted(shown: torch.Tensor) -> torch.Tensor:
        seen.append(len(shown))
        logits: torch.Tensor = network(shown)
        return logits

    attack = rao(steps=3, location="fixed")
    once = crafted(attack, network, images, Untargeted())
    many = crafted(rao(steps=3, location="fixed", restarts=6), counted, images, Untargeted())
    first, all_ = broken(network, images, once), broken(network, images, many)
    assert 0 < int(first.sum()) < int(all_.sum())
    assert torch.equal(many.textures[first], once.textures[first])
    assert torch.equal(where(many)[first], where(once)[first])
    assert once.history == many.history, "the history is that of the first start, of all images"
    assert seen[:8] == [COUNT] * 4 + [COUNT - int(first.sum())] * 4
    assert seen == sorted(seen, reverse=True)


def test_later_starts_lie_anywhere() -> None:
    """On a network that nothing breaks, the best of many starts is where the network looks."""
    network = linear_network(0.1 * hill(2, 6))
    ahead = torch.tensor([6.0, 0.0])
    patch = crafted(
        rao(steps=10, location="fixed", restarts=60), lambda x: network(x) + ahead, images_of(), Untargeted()
    )
    start = torch.stack([places().rows, places().columns], dim=1).float()
    middle = torch.tensor([2.0, 6.0])
    assert (where(patch) - middle).norm(dim=1).mean() < 0.5 * (start - middle).norm(dim=1).mean()


def test_the_authors_restarts_are_the_default() -> None:
    assert Rao(name="rao", size=Size(SIZE)).restarts == 30


@pytest.mark.parametrize(
    ("location", "stride", "forwards"), [("fixed", 2, 0), ("random", 2, 2), ("full", 2, 5), ("full", 0, 0)]
)
def test_the_estimate_of_passes_is_the_count(location: str, stride: int, forwards: int) -> None:
    network, calls = linear_network(hill(4, 4)).requires_grad_(False), [0, 0]

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls[images.requires_grad] += 1
        logits: torch.Tensor = network(images)
        return logits

    attack = rao(location=location, stride=stride, steps=6)
    crafted(attack, counted, images_of(), Untargeted())
    assert calls == [6 * forwards, 7]
    assert attack.passes() == 6 * forwards + 3 * 7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("restarts", 0),
        ("step_size", 0),
        ("step_size", 1.5),
        ("stride", -1),
        ("location", "anywhere"),
        ("excluded", (-1, 0, 3, 3)),
        ("excluded", (0, 0, 0, 3)),
        ("excluded", (0, 0, 3)),
    ],
)
def test_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        rao(**{field: value})
