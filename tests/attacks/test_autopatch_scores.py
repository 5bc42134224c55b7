"""The part of AutoPatch that needs no gradient: on files that are deployed, and on networks at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from qpatchbench.attacks.autopatch import AutoPatch
from qpatchbench.attacks.staged import base
from qpatchbench.attacks.staged.autopatch_scores import AutoPatchScores
from qpatchbench.evaluation.checks.artifacts import scores_find_nothing_more
from qpatchbench.models.deployed.deployed_model import DeployedModel
from qpatchbench.ops.crafting.losses import succeeded
from qpatchbench.ops.crafting.score_access import Scores
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.types import CraftTask, Goal, ImageSet, Network, Patch, Targeted, Untargeted
from tests.models.deployed.made_files import CLASSES, SIDE, int8_file, onnx_file, tiny

SIZE, COUNT, WRONG = 5, 48, 4


@pytest.fixture(autouse=True)
def short_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base.BUDGETS, "quick", base.Budget(20, 15, 1, 120))


def balanced(classes: int = CLASSES) -> torch.nn.Module:
    """The tiny network, whose answers to the images below are spread over its classes."""
    network = tiny(classes)
    with torch.no_grad():
        network.last.bias.sub_(network(to_float(pixels())).mean(dim=0) / 20)
    return network


def pixels() -> torch.Tensor:
    """(N, 3, H, W) uint8, each of another brightness."""
    shades = torch.linspace(40, 255, COUNT).view(-1, 1, 1, 1)
    return (shades * torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))).to(torch.uint8)


def images(network: Network, classes: int = CLASSES) -> ImageSet:
    """Images that the network classifies correctly, but for the first four."""
    shown = pixels()
    labels = network(to_float(shown)).argmax(dim=1)
    labels[:WRONG] = (labels[:WRONG] + 1) % classes
    return ImageSet(shown, labels, tuple(map(str, range(COUNT))))


def task(network: Network, shown: ImageSet, goal: Goal = Untargeted()) -> CraftTask:  # noqa: B008 (frozen)
    """As the runner sets it: scores alone, and no images to learn from."""
    places = sample_placement(len(shown), (SIDE, SIDE), (SIZE, SIZE), torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(1)
    return CraftTask((Scores(network),), (goal,), shown[:0], generator, attacked=shown, placement=places)


def attack(**fields: object) -> AutoPatchScores:
    return AutoPatchScores.model_validate({"name": "autopatch_scores", "size": SIZE, "effort": "quick", **fields})


def broken(network: Network, patch: Patch, asked: CraftTask) -> torch.Tensor:
    """Which images are fooled by the patches as they are stored, (N,) bool."""
    shown, given = asked.require_places()
    places = patch.placement if patch.placement is not None else given
    logits = network(paste(to_float(shown.pixels), round_to_8_bit(patch.textures), patch.masks, places))
    return succeeded(logits, shown.labels, torch.full_like(shown.labels, -1))


class Files(NamedTuple):
    """The network of the tests, and what answers from its files."""

    network: torch.nn.Module
    float: torch.nn.Module
    int8: torch.nn.Module


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder, network = tmp_path_factory.mktemp("files"), balanced()
    whole = onnx_file(folder / "float.onnx", network)
    small = int8_file(folder / "int8.onnx", whole)
    opened = [
        DeployedModel(name="deployed", file=str(path), bits=bits).build(CLASSES, SIDE)
        for path, bits in ((whole, 32), (small, 8))
    ]
    return Files(network, *opened)


@pytest.mark.numerical
@pytest.mark.parametrize("location", ["given", "searched"])
@pytest.mark.parametrize("file", ["float", "int8"])
def test_it_breaks_files_that_noise_does_not(files: Files, file: str, location: str) -> None:
    network = getattr(files, file)
    asked = task(network, images(network))
    patch = attack(location=location).craft(asked)
    assert (patch.placement is None) == (location == "given")
    found = broken(network, patch, asked)[WRONG:]
    noise = torch.rand(patch.textures.shape, generator=torch.Generator().manual_seed(5))
    by_chance = broken(network, replace(patch, textures=noise), asked)[WRONG:]
    (stage,) = patch.stages
    assert (stage.attack, stage.access) == ("sparse_rs", "scores")
    assert (stage.attacked, stage.broken) == (COUNT - WRONG, int(found.sum()))
    # Over six seeds at least 20 of 44 more than by chance: 36 and 16.
    assert int(found.sum()) >= int(by_chance.sum()) + 14


@pytest.mark.numerical
@pytest.mark.parametrize("location", ["given", "searched"])
def test_a_float_file_gets_the_patches_of_its_network(files: Files, location: str) -> None:
    """Scores of onnxruntime and torch differ in the last digits, so that a close decision may fall otherwise."""
    shown = images(files.network)
    on_file, on_network = (
        attack(location=location).craft(task(network, shown)) for network in (files.float, files.network)
    )
    assert on_file.queries is not None
    assert on_network.queries is not None
    same = (on_file.textures == on_network.textures).flatten(1).all(dim=1)
    # 47 of 48 at least, over ten seeds.
    assert int(same.sum()) >= COUNT - 3
    assert on_file.queries[same].equal(on_network.queries[same])
    if on_file.placement is not None and on_network.placement is not None:
        assert on_file.placement.rows[same].equal(on_network.placement.rows[same])
        assert on_file.placement.columns[same].equal(on_network.placement.columns[same])


def test_images_that_are_wrong_when_clean_are_left_alone(files: Files) -> None:
    asked = task(files.float, images(files.float))
    patch = attack(effort="trial").craft(asked)
    assert patch.attacked is not None
    assert patch.attacked.tolist() == [False] * WRONG + [True] * (COUNT - WRONG)
    assert patch.queries is not None
    assert patch.queries[:WRONG].tolist() == [1] * WRONG, "one look, which says that they are wrong"
    assert int(patch.queries[WRONG:].min()) > 1
    # Whatever breaks an image is looked at once more, after its success.
    assert int(patch.queries.sum()) + patch.stages[0].broken == asked.network.queries  # type: ignore[attr-defined]


@pytest.mark.parametrize("goal", [Untargeted(), Targeted(1)], ids=str)
def test_two_classes_will_do(goal: Goal) -> None:
    network = balanced(2)
    shown = images(network, 2)
    targets: object = "untargeted" if isinstance(goal, Untargeted) else (1,)
    patch = attack(targets=targets).craft(task(network, shown, goal))
    (stage,) = patch.stages
    wanted = COUNT - WRONG if goal == Untargeted() else int((shown.labels[WRONG:] == 0).sum())
    assert stage.attacked == wanted > 0
    assert stage.broken > wanted / 2


def test_it_is_the_last_stage_of_autopatch_and_no_more() -> None:
    fields = {"size": SIZE, "targets": (0, 2), "effort": "standard", "location": "given"}
    whole = AutoPatch.model_validate({"name": "autopatch", **fields})
    part = attack(**fields)
    (own,) = part.stages(siblings=True)
    assert own == [*whole.stages(siblings=True)][-1]
    assert AutoPatch.from_scores == part.name
    assert (part.access, whole.access) == ("scores", "gradient")
    assert "backward" not in type(part).model_fields


def test_the_check_of_masked_gradients_is_not_run_without_any(files: Files) -> None:
    patch = attack(effort="trial").craft(task(files.float, images(files.float)))
    check = scores_find_nothing_more(patch.stages)
    assert (check.verdict, check.message) == ("not-run", "no part of the attack follows a gradient")
