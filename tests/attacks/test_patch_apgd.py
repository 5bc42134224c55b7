"""Patch Auto-PGD: exact optima, the search for places, restarts, and what an image's patch may depend on."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from pydantic import ValidationError

from qpatchbench.attacks.patch_apgd import PatchApgd
from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.losses import logit_difference, succeeded
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.testing.fixtures.oracles import linear_network
from qpatchbench.types import CraftTask, Goal, ImageSet, Network, Patch, Placement, Targeted, Untargeted

SIDE, SIZE, CLASSES, COUNT = 8, 3, 4, 24
PIXELS = 3 * SIDE * SIDE


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bent_network(seed: int) -> torch.nn.Module:
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, CLASSES)]
    module = torch.nn.Sequential(*layers).eval().requires_grad_(False)
    generator = draws(seed)
    for parameter in module.parameters():
        parameter.copy_(1.5 * torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    return module


def right_images(network: Network, count: int = COUNT, seed: int = 0) -> ImageSet:
    """Images with the labels that the network gives them."""
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=draws(seed), dtype=torch.uint8)
    with torch.no_grad():
        labels = network(to_float(pixels)).argmax(dim=1)
    return ImageSet(pixels, labels, tuple(map(str, range(count))))


def apgd(**fields: object) -> PatchApgd:
    """One start where the suite placed the patch, unless told otherwise."""
    return PatchApgd.model_validate({"name": "patch_apgd", "size": SIZE, "restarts": 1, "location": "given", **fields})


def places(count: int = COUNT) -> Placement:
    return sample_placement(COUNT, (SIDE, SIDE), (SIZE, SIZE), draws(1))[slice(0, count)]


def crafted(attack: PatchApgd, network: Network, images: ImageSet, *goals: Goal, seed: int = 2) -> Patch:
    own = places(len(images))
    return attack.craft(CraftTask((network,), goals, images, draws(seed), attacked=images, placement=own))


def logits_of(network: Network, images: ImageSet, patch: Patch) -> torch.Tensor:
    """Measured from scratch, as the harness does."""
    place = patch.placement if patch.placement is not None else places(len(images))
    with torch.no_grad():
        return network(paste(to_float(images.pixels), round_to_8_bit(patch.textures), patch.masks, place))


def targets_of(images: ImageSet, patch: Patch) -> torch.Tensor:
    goal = patch.goals[0]
    return torch.full_like(images.labels, goal.class_id if isinstance(goal, Targeted) else -1)


def successes(network: Network, images: ImageSet, patch: Patch) -> torch.Tensor:
    return succeeded(logits_of(network, images, patch), images.labels, targets_of(images, patch))


def margins(network: Network, images: ImageSet, patch: Patch) -> torch.Tensor:
    return logit_difference(logits_of(network, images, patch), images.labels, targets_of(images, patch))


@pytest.mark.numerical
@pytest.mark.parametrize("loss", ["margin", "cross_entropy", "dlr"])
@pytest.mark.parametrize("goal", [Targeted(2), Untargeted()], ids=str)
def test_the_optimum_of_a_linear_network_is_reached(loss: str, goal: Goal) -> None:
    """Two classes that can win, so that the untargeted slope is the targeted one; exactly, within 30 steps."""
    weight = 0.05 * torch.randn(CLASSES, PIXELS, generator=draws(3))
    weight[[1, 3]] = 0
    weight[1], weight[3] = weight[0] - 0.2, weight[0] - 0.3  # always behind class 0, and without a slope against it
    network = linear_network(weight).requires_grad_(False)
    pixels = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), generator=draws(0), dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(COUNT, dtype=torch.int64), ("",) * COUNT)
    patch = crafted(apgd(loss=loss, steps=30), network, images, goal)
    slope, place = (weight[2] - weight[0]).view(3, SIDE, SIDE), places()
    for index, texture in enumerate(patch.textures):
        row, column = int(place.rows[index]), int(place.columns[index])
        window = slope[:, row : row + SIZE, column : column + SIZE]
        assert float((window * texture).sum()) >= 0.95 * float(window.clamp(min=0).sum())


def window_network(row: int, column: int) -> Network:
    """Class 1 where the window is dark in the mean, else class 0; it sees nothing else."""

    def network(images: torch.Tensor) -> torch.Tensor:
        brightness = images[:, :, row : row + SIZE, column : column + SIZE].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(brightness), 4 * (0.1 - brightness)], dim=1)

    return network


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 5), (2, 4), (5, 1)])
@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_a_searched_place_is_the_only_sensitive_one(row: int, column: int, loss: str) -> None:
    """Only a patch that covers the whole window, or nearly, can make it dark enough on a white image."""
    network = window_network(row, column)
    white = ImageSet(torch.full((6, 3, SIDE, SIDE), 255, dtype=torch.uint8), torch.zeros(6).long(), ("",) * 6)
    attack = apgd(location="searched", random_places=0, steps=10, loss=loss)
    patch = crafted(attack, network, white, Untargeted())
    assert patch.placement is not None
    assert patch.placement.rows.eq(row).all()
    assert patch.placement.columns.eq(column).all()
    assert successes(network, white, patch).all()


def test_given_places_are_kept_and_searched_ones_returned() -> None:
    network = bent_network(4)
    images = right_images(network)
    assert crafted(apgd(steps=3), network, images, Untargeted()).placement is None
    patch = crafted(apgd(steps=3, location="searched"), network, images, Targeted(0), Untargeted())
    assert patch.placement is not None
    assert len(patch.placement) == len(patch.textures) == 2 * COUNT
    assert patch.placement.angles.eq(0).all()
    assert patch.placement.scales.eq(1).all()


@pytest.mark.numerical
@pytest.mark.parametrize("goal", [Targeted(1), Untargeted()], ids=str)
@pytest.mark.parametrize("location", ["given", "searched"])
def test_more_restarts_and_places_never_break_fewer_images(goal: Goal, location: str) -> None:
    network = bent_network(5)
    images = right_images(network)
    budgets = [(1, 0), (2, 0), (3, 0), (3, 2)] if location == "searched" else [(1, 0), (2, 0), (3, 0)]
    patches = [
        crafted(apgd(location=location, restarts=r, random_places=p, steps=4), network, images, goal)
        for r, p in budgets
    ]
    broken = [successes(network, images, patch) for patch in patches]
    for fewer, more in zip(broken, broken[1:], strict=False):
        assert (more | ~fewer).all(), "an image broken with less was not broken with more"
    lowest, highest = (margins(network, images, patches[budget]) for budget in (-1, 0))
    assert int((lowest < highest - 1e-3).sum()) >= 3, "nothing was gained: the test is void"


class Counter:
    """A network that counts the images it is shown."""

    def __init__(self, network: Network) -> None:
        self.network, self.batches = network, list[int]()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return self.network(images)


@pytest.mark.numerical
def test_only_unbroken_images_are_attacked_again() -> None:
    counter = Counter(bent_network(5))
    images = right_images(counter.network)
    first = successes(counter.network, images, crafted(apgd(steps=4), counter.network, images, Untargeted()))
    crafted(apgd(steps=4, restarts=2), counter, images, Untargeted())
    left = int((~first).sum())
    assert 0 < left < COUNT
    assert counter.batches == [COUNT] * 5 + [left] * 5


def test_a_later_run_changes_nothing_for_images_already_broken() -> None:
    network = bent_network(5)
    images = right_images(network)
    once, twice = (crafted(apgd(steps=4, restarts=n), network, images, Untargeted()) for n in (1, 2))
    done = successes(network, images, once)
    assert torch.equal(once.textures[done], twice.textures[done])
    assert not torch.equal(once.textures[~done], twice.textures[~done])
    assert once.history == twice.history, "the history is that of the first run, of all images"


@pytest.mark.numerical
@pytest.mark.parametrize("location", ["given", "searched"])
def test_batches_and_neighbours_change_nothing(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = bent_network(6).double()  # so that rounding does not flip the sign of a gradient

    def exact(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(images.double())
        return logits

    images = right_images(exact)
    attack = apgd(location=location, steps=12, restarts=2, random_places=1)
    whole = crafted(attack, exact, images, Targeted(1), Untargeted())
    for size in (1, 5, 23):
        monkeypatch.setattr(loops, "PER_IMAGE_BATCH", size)
        split = crafted(attack, exact, images, Targeted(1), Untargeted())
        assert torch.allclose(split.textures, whole.textures, atol=1e-4)
        assert split.history == pytest.approx(whole.history, abs=1e-5)
        if whole.placement is not None:
            assert split.placement is not None
            assert torch.equal(split.placement.rows, whole.placement.rows)
    few = crafted(attack, exact, images[:7], Targeted(1), Untargeted())
    assert torch.allclose(few.for_goal(1).textures, whole.for_goal(1).textures[:7], atol=1e-4)


@pytest.mark.numerical
def test_success_is_that_of_the_stored_patch() -> None:
    """The reported rate is what a measurement of the 8-bit patch from scratch gives."""
    told: list[tuple[float, Mapping[str, float]]] = []
    network = bent_network(5)
    images, place = right_images(network), places()
    patch = apgd(steps=6, restarts=2).craft(
        CraftTask(
            (network,),
            (Untargeted(),),
            images,
            draws(2),
            attacked=images,
            placement=place,
            progress=lambda fraction, figures: told.append((fraction, figures)),
        )  # fmt: skip
    )
    assert torch.equal(patch.textures, round_to_8_bit(patch.textures))
    rate = 100 * float(successes(network, images, patch).float().mean())
    assert told[-1][0] == 1
    assert told[-1][1]["asr"] == pytest.approx(rate)
    assert 0 < rate < 100
    shares = [figures["asr"] for _, figures in told]
    assert shares == sorted(shares)


def test_dlr_needs_enough_classes() -> None:
    network = linear_network(torch.randn(3, PIXELS, generator=draws(7))).requires_grad_(False)
    images = right_images(network, 4)
    crafted(apgd(loss="dlr", steps=2), network, images, Untargeted())
    with pytest.raises(AttackError, match="at least 4 classes for the targeted loss dlr, found 3"):
        crafted(apgd(loss="dlr", steps=2), network, images, Targeted(1))


def test_a_broken_network_is_an_error_in_the_search_too() -> None:
    images = right_images(bent_network(8), 4)
    for location, where in (("given", "at step 0 of 5"), ("searched", "while places are searched")):
        with pytest.raises(AttackError, match=f"not finite {where}"):
            crafted(
                apgd(location=location, steps=5), lambda x: x.flatten(1)[:, :3] * float("nan"), images, Untargeted()
            )


def test_the_estimate_of_passes_is_the_count_of_the_worst_case() -> None:
    never = Counter(lambda images: torch.stack([images.mean(dim=(1, 2, 3)) + 9, -images.mean(dim=(1, 2, 3))], dim=1))
    images = ImageSet(torch.zeros(3, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(3).long(), ("",) * 3)
    attack = apgd(location="searched", steps=5, restarts=2, random_places=2, candidates=4)
    crafted(attack, never, images, Untargeted())
    graded = 1 + 2 * 3 * 6
    assert len(never.batches) == graded + 4
    assert attack.passes() == 3 * graded + 4


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("restarts", 0), ("loss", "ce"), ("candidates", 0), ("random_places", -1)]
)
def test_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        apgd(**{field: value})
