"""Random search finds what is planted, counts what it asks, and sees through masked gradients."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.attacks.lavan import LavanPerImage
from qpatchbench.attacks.sparse_rs import SparseRs
from qpatchbench.ops.crafting.losses import succeeded
from qpatchbench.ops.crafting.score_access import Scores
from qpatchbench.ops.patches.pasting import paste, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.testing.fixtures.oracles import best_patch, linear_network, margin_gain
from qpatchbench.types import CraftTask, Goal, ImageSet, Network, Patch, Size, Targeted, Untargeted

SIDE, SIZE = 10, 3


def images(count: int = 24) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.zeros(count, dtype=torch.int64), tuple(map(str, range(count))))


def attack(**fields: object) -> SparseRs:
    return SparseRs.model_validate({"name": "sparse_rs", "size": SIZE, "queries": 400, **fields})


def task(network: Network, goal: Goal, shown: ImageSet | None = None, seed: int = 1) -> CraftTask:
    shown = shown if shown is not None else images()
    places = sample_placement(len(shown), (SIDE, SIDE), (SIZE, SIZE), torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(seed)
    return CraftTask((Scores(network),), (goal,), shown[:0], generator, attacked=shown, placement=places)


def hits(network: Network, patch: Patch, asked: CraftTask) -> torch.Tensor:
    shown, given = asked.require_places()
    places = patch.placement if patch.placement is not None else given
    logits = network(paste(to_float(shown.pixels), patch.textures, patch.masks, places))
    target = asked.goal.class_id if isinstance(asked.goal, Targeted) else -1
    return succeeded(logits, shown.labels, torch.full_like(shown.labels, target))


def trigger(pasted: torch.Tensor) -> torch.Tensor:
    """Class 1 where some 3x3 window is red in at least seven of nine pixels; says how close the best window is."""
    red = ((pasted[:, 0] > 0.9) & (pasted[:, 1:] < 0.1).all(dim=1)).float().unsqueeze(1)
    most = torch.nn.functional.avg_pool2d(red, SIZE, 1).amax(dim=(1, 2, 3)) * 9
    return torch.stack([torch.full_like(most, 6.5), most], dim=1)


@pytest.mark.numerical
def test_a_planted_trigger_is_found_and_queries_are_counted() -> None:
    asked = task(trigger, Untargeted())
    patch = attack().craft(asked)
    assert float(hits(trigger, patch, asked).float().mean()) > 0.9
    assert patch.queries is not None
    oracle = asked.network
    assert isinstance(oracle, Scores)
    assert int(patch.queries.sum()) == oracle.queries, "every image shown is counted, and no more"
    assert int(patch.queries.min()) >= 1
    assert int(patch.queries.max()) < 400


def test_an_image_that_resists_costs_the_whole_budget() -> None:
    def stubborn(pasted: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, 0.0]).expand(len(pasted), 2)

    asked = task(stubborn, Untargeted())
    patch = attack(queries=37).craft(asked)
    assert patch.queries is not None
    assert patch.queries.tolist() == [37] * 24
    assert asked.network.queries == 37 * 24  # type: ignore[attr-defined]  # Scores
    assert len(patch.history) == 37


@pytest.mark.numerical
def test_success_within_more_queries_is_no_less() -> None:
    rates = []
    for queries in (10, 40, 160):
        asked = task(trigger, Untargeted())
        rates.append(float(hits(trigger, attack(queries=queries).craft(asked), asked).float().mean()))
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


@pytest.mark.numerical
@pytest.mark.parametrize("location", ["given", "searched"])
def test_most_of_the_exact_optimum_of_a_linear_network_is_found(location: str) -> None:
    weight = torch.zeros(2, 3, SIDE, SIDE)
    weight[1] = torch.randn(3, 1, 1, generator=torch.Generator().manual_seed(7)) * torch.ones(3, SIDE, SIDE)
    flat = weight.flatten(1)
    network = linear_network(flat)

    def hard(pasted: torch.Tensor) -> torch.Tensor:
        # A head start of class 0 that no patch can make up for, so that the whole budget is spent.
        logits: torch.Tensor = network(pasted) + torch.tensor([1e3, 0.0])
        return logits

    patch = attack(queries=800, location=location).craft(task(hard, Targeted(1), images(6)))
    best = margin_gain(flat, best_patch(flat, 0, 1, SIDE, SIZE), 0, 1, SIDE)
    for texture in patch.textures:
        assert margin_gain(flat, texture, 0, 1, SIDE) >= 0.95 * best


def test_colours_are_corners_of_the_cube_and_survive_8_bits() -> None:
    patch = attack(queries=50).craft(task(trigger, Untargeted()))
    assert ((patch.textures == 0) | (patch.textures == 1)).all()


def test_places_reach_every_row_and_column() -> None:
    def brightest(pasted: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, 0.0]).expand(len(pasted), 2)

    patch = attack(queries=1).craft(task(brightest, Untargeted(), images(600)))
    assert patch.placement is not None
    assert set(patch.placement.rows.tolist()) == set(patch.placement.columns.tolist()) == set(range(SIDE - SIZE + 1))


@pytest.mark.numerical
def test_it_finds_the_only_sensitive_window() -> None:
    def window(pasted: torch.Tensor) -> torch.Tensor:
        white = pasted[:, :, 6:9, 1:4].mean(dim=(1, 2, 3))
        return torch.stack([torch.full_like(white, 0.8), white], dim=1)

    black = ImageSet(images().pixels * 0, images().labels, images().ids)
    asked = task(window, Untargeted(), black)
    patch = attack(queries=1500).craft(asked)
    assert patch.placement is not None
    assert float(hits(window, patch, asked).float().mean()) > 0.9
    found = hits(window, patch, asked)
    assert ((patch.placement.rows - 6).abs()[found] <= 1).all()
    assert ((patch.placement.columns - 1).abs()[found] <= 1).all()


@pytest.mark.numerical
def test_a_network_that_hides_its_gradient_falls_to_scores_only() -> None:
    """Rounded inputs have a gradient of zero everywhere: the gradient attack stays at its random start."""
    weight = torch.randn(3, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(3))
    linear = linear_network(weight).requires_grad_(False)

    def masked(pasted: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = linear((pasted * 4).round() / 4)
        return logits

    shown = images(60)
    shown = ImageSet(shown.pixels, linear(to_float(shown.pixels)).argmax(dim=1), shown.ids)
    asked = task(masked, Untargeted(), shown)
    blind = LavanPerImage(name="lavan_per_image", size=Size(SIZE), steps=50, targets="untargeted")
    gradient = hits(masked, blind.craft(CraftTask((masked,), (Untargeted(),), shown, torch.Generator().manual_seed(0),
                    attacked=shown, placement=asked.placement)), asked)  # fmt: skip
    search = hits(masked, attack(location="given").craft(asked), asked)
    assert float(search.float().mean()) > float(gradient.float().mean()) + 0.2
