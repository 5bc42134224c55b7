"""Moves of a patch: what is carried along, how far, where to, and that they never make things worse."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting.losses import cross_entropy
from qpatchbench.ops.crafting.moving_patches import Moved, Moves, moving_patches, relocated
from qpatchbench.ops.patches.locating import Box, allowed_places, random_places, upright
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.types import Network, Placement

SIDE, SIZE, COUNT = 12, 3, 10
CENTRE = Box(5, 5, 3, 3)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def streams(count: int, seed: int) -> ImageDraws:
    return ImageDraws.of(count, draws(seed), torch.device("cpu"))


def network_of(seed: int) -> torch.nn.Module:
    layers = [torch.nn.Conv2d(3, 6, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(600, 3)]
    module = torch.nn.Sequential(*layers).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draws(seed)) / parameter[0].numel() ** 0.5)
    return module


def run(
    network: Network, *, directions: int, stride: int = 2, steps: int = 15, box: Box | None = None, count: int = COUNT
) -> Moved:
    allowed = allowed_places((SIDE, SIDE), (SIZE, SIZE), box)
    return moving_patches(
        network, cross_entropy,
        torch.zeros(count, 3, SIDE, SIDE), torch.arange(count) % 3, torch.full((count,), -1),
        0.4 + 0.2 * torch.rand(COUNT, 3, SIZE, SIZE, generator=draws(1))[:count],
        random_places(allowed, streams(COUNT, 2))[slice(0, count)],
        moves=Moves(allowed, stride, directions), draws=streams(count, 3), steps=steps, step_size=0.02,
    )  # fmt: skip


class Recorder:
    """A network that remembers, for each call, whether it was for a gradient, the images and the losses."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network
        self.seen: list[tuple[bool, torch.Tensor]] = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append((images.requires_grad, images.detach()))
        logits: torch.Tensor = self.network(images)
        return logits

    def steps(self) -> list[list[torch.Tensor]]:
        """What was shown before each gradient but the first: staying, then the directions, then the outcome."""
        groups: list[list[torch.Tensor]] = []
        tried: list[torch.Tensor] = []
        for graded, images in self.seen[1:]:
            tried.append(images)
            if graded:
                groups.append(tried)
                tried = []
        return groups


def crops(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the only square that is not black begins on each image, (B, 2), and what is in it, (B, 3, h, w)."""
    lit = (images > 0).any(dim=1)
    corner = torch.stack([lit.any(dim=2).int().argmax(dim=1), lit.any(dim=1).int().argmax(dim=1)], dim=1)
    cut = [
        image[:, row : row + SIZE, column : column + SIZE]
        for image, (row, column) in zip(images, corner.tolist(), strict=True)
    ]
    assert lit.flatten(1).sum(dim=1).eq(SIZE * SIZE).all(), "expected one full square on black"
    return corner, torch.stack(cut)


@pytest.mark.numerical
@pytest.mark.parametrize("directions", [1, 4])
def test_content_moves_bit_for_bit_and_never_for_the_worse(directions: int) -> None:
    recorder, labels, moved = Recorder(network_of(4)), torch.arange(COUNT) % 3, 0
    run(recorder, directions=directions)
    groups = recorder.steps()
    assert len(groups) == 15

    def losses(images: torch.Tensor) -> torch.Tensor:
        return cross_entropy(recorder.network(images), labels, torch.full_like(labels, -1))

    for group in groups:
        stay, *tried, outcome = group
        assert len(tried) == directions
        here, content = crops(stay)
        there, carried = crops(outcome)
        assert torch.equal(content, carried), "the patch changed while it moved"
        offered = torch.stack([losses(images) for images in (stay, *tried)])
        assert torch.equal(losses(outcome), offered.min(dim=0).values), "not the best of what was tried"
        moved += int((here != there).any(dim=1).sum())
    assert moved > 5, "hardly any patch moved: the test is void"


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("directions", [1, 4])
def test_moves_are_one_stride_along_one_axis(directions: int, stride: int) -> None:
    recorder = Recorder(network_of(5))
    run(recorder, directions=directions, stride=stride)
    lengths = set()
    for stay, *tried, outcome in recorder.steps():
        start = crops(stay)[0]
        for images in (*tried, outcome):
            move = (crops(images)[0] - start).abs()
            assert (move.min(dim=1).values == 0).all(), "a move along both axes"
            lengths |= set(move.max(dim=1).values.tolist())
    assert lengths == {0, stride}


@pytest.mark.parametrize("directions", [1, 4])
def test_the_excluded_box_is_never_touched_and_the_image_never_left(directions: int) -> None:
    recorder = Recorder(network_of(6))
    found = run(recorder, directions=directions, box=CENTRE, stride=1, steps=18)
    inside = (slice(None), slice(None), slice(CENTRE.row, CENTRE.row + 3), slice(CENTRE.column, CENTRE.column + 3))
    for _, images in recorder.seen:
        assert images[inside].eq(0).all(), "something was pasted on the box"
        crops(images)  # a full square on every image
    allowed = allowed_places((SIDE, SIDE), (SIZE, SIZE), CENTRE)
    assert allowed[found.placement.rows, found.placement.columns].all()


@pytest.mark.parametrize(("directions", "stride"), [(0, 2), (1, 0), (4, 0)])
def test_without_stride_or_direction_nothing_moves(directions: int, stride: int) -> None:
    recorder = Recorder(network_of(7))
    found = run(recorder, directions=directions, stride=stride)
    fixed = run(network_of(7), directions=0)
    assert len(recorder.seen) == 16, "forward passes were spent on moves"
    start = random_places(allowed_places((SIDE, SIDE), (SIZE, SIZE)), streams(COUNT, 2))
    assert torch.equal(found.placement.rows, start.rows)
    assert torch.equal(found.placement.columns, start.columns)
    assert torch.equal(found.textures, fixed.textures)


def test_all_four_directions_are_drawn_equally_often() -> None:
    seen: list[torch.Tensor] = []
    middle = upright(torch.full((4000,), 5), torch.full((4000,), 5))

    def losses(place: Placement) -> torch.Tensor:
        seen.append(torch.stack([place.rows, place.columns], dim=1))
        return torch.zeros(4000)

    allowed = allowed_places((SIDE, SIDE), (SIZE, SIZE))
    stayed = relocated(losses, middle, Moves(allowed, 2, 1), streams(4000, 8))
    assert torch.equal(stayed.rows, middle.rows), "an equal loss is no reason to move"
    counts = Counter(map(tuple, seen[1].tolist()))
    assert set(counts) == {(3, 5), (5, 3), (5, 7), (7, 5)}
    assert max(abs(count - 1000) for count in counts.values()) < 120


def test_the_best_of_four_directions_is_taken_and_corners_are_reached() -> None:
    """Downhill to the last row and column, one stride at a time, the steeper axis first; then nothing improves."""
    place = upright(torch.tensor([0, 4]), torch.tensor([1, 9]))
    moves = Moves(allowed_places((SIDE, SIDE), (SIZE, SIZE)), 1, 4)
    path = []
    for _ in range(20):
        place = relocated(lambda at: -2.0 * at.rows - at.columns, place, moves, streams(2, 9))
        path.append((int(place.rows[0]), int(place.columns[0])))
    assert path[:10] == [(row, 1) for row in range(1, 10)] + [(9, 2)]
    assert place.rows.tolist() == place.columns.tolist() == [9, 9]


def test_the_best_iterate_is_kept() -> None:
    recorder = Recorder(network_of(10))
    found = run(recorder, directions=4, steps=25)
    labels = torch.arange(COUNT) % 3
    graded = [images for with_gradient, images in recorder.seen if with_gradient]
    logits = [recorder.network(images) for images in graded]
    losses = torch.stack([cross_entropy(each, labels, torch.full_like(labels, -1)) for each in logits])
    failed = torch.stack([each.argmax(dim=1) == labels for each in logits])
    for index in range(COUNT):
        best = min(range(26), key=lambda step: (bool(failed[step, index]), float(losses[step, index])))
        corner, content = crops(graded[best][index : index + 1])
        assert corner[0].tolist() == [int(found.placement.rows[index]), int(found.placement.columns[index])]
        assert torch.equal(content[0], found.textures[index])
        assert bool(found.judgement.success[index]) == (not failed[best, index])
    assert torch.allclose(found.history, losses[:-1], atol=1e-6)


def test_images_do_not_disturb_each_other() -> None:
    for directions in (1, 4):
        many, few = (run(network_of(11), directions=directions, count=count) for count in (COUNT, 4))
        assert torch.allclose(many.textures[:4], few.textures, atol=1e-3)
        assert torch.equal(many.placement.rows[:4], few.placement.rows)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    calls = 0

    def broken(images: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return images.flatten(1)[:, :3] * (float("inf") if calls > 9 else 1.0)

    with pytest.raises(AttackError, match="not finite at step 1 of 15"):
        run(broken, directions=4)
