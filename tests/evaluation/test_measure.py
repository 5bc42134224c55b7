"""Predictions and counts against slow references, and the identities that the definitions imply."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qpatchbench.errors import AttackError
from qpatchbench.evaluation.measure import clean_predictions, count_outcomes, count_queries, patched_predictions
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.runs.outcomes import Outcomes, assert_identities
from qpatchbench.runs.records import GoalCounts
from qpatchbench.types import Goal, ImageSet, Patch, Placement, Targeted, Untargeted

SIDE, SIZE, CLASSES, COUNT = 8, 3, 4, 37


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), generator=draws(0), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (COUNT,), generator=draws(1))
    return ImageSet(pixels, labels, tuple(map(str, range(COUNT))))


@pytest.fixture
def network() -> torch.nn.Module:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, CLASSES)).requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draws(2)))
    return module.eval()


@pytest.fixture
def placement() -> Placement:
    return sample_placement(COUNT, (SIDE, SIDE), (SIZE, SIZE), draws(3))


def patch_of(goals: tuple[Goal, ...], per_image: bool) -> Patch:
    count = len(goals) * (COUNT if per_image else 1)
    textures = torch.rand(count, 3, SIZE, SIZE, generator=draws(4))
    masks = torch.ones(count, 1, SIZE, SIZE)
    masks[:, :, 0, 0] = 0
    return Patch(textures, masks, goals)


def one_by_one(network: torch.nn.Module, images: ImageSet, patch: Patch, at: Placement) -> np.ndarray:
    """Every image alone, patched in integers, as an image file would hold it."""
    each = len(patch.textures) // len(patch.goals)
    rows = []
    for goal in range(len(patch.goals)):
        row = []
        for index in range(len(images)):
            chosen = goal * each + (index if each > 1 else 0)
            texture = np.floor(patch.textures[chosen].double().numpy() * 255 + 0.5).astype(np.uint8)
            visible = patch.masks[chosen, 0].numpy() == 1
            picture = images.pixels[index].numpy().copy()
            top, left = int(at.rows[index]), int(at.columns[index])
            picture[:, top : top + SIZE, left : left + SIZE][:, visible] = texture[:, visible]
            logits = network(torch.from_numpy(picture).float()[None] / 255)
            row.append(int(logits.argmax()))
        rows.append(row)
    return np.asarray(rows)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("goals", [(Targeted(1),), (Targeted(3), Untargeted(), Targeted(0))])
def test_patched_predictions_equal_one_image_at_a_time(
    network: torch.nn.Module, images: ImageSet, placement: Placement, goals: tuple[Goal, ...], per_image: bool
) -> None:
    patch = patch_of(goals, per_image)
    predictions = patched_predictions(network, images, patch, placement, 8)
    assert predictions.dtype == torch.int32
    assert np.array_equal(predictions.numpy(), one_by_one(network, images, patch, placement))


@pytest.mark.numerical
@pytest.mark.parametrize("per_image", [False, True])
def test_batches_do_not_matter(
    network: torch.nn.Module, images: ImageSet, placement: Placement, per_image: bool
) -> None:
    patch = patch_of((Targeted(1), Untargeted()), per_image)
    expected = patched_predictions(network, images, patch, placement, COUNT)
    clean = clean_predictions(network, images, COUNT)
    for batch_size in (1, 2, 36, 1000):
        assert torch.equal(patched_predictions(network, images, patch, placement, batch_size), expected)
        assert torch.equal(clean_predictions(network, images, batch_size), clean)


def test_nothing_that_is_passed_in_changes(network: torch.nn.Module, images: ImageSet, placement: Placement) -> None:
    patch = patch_of((Untargeted(),), False)
    pixels, textures = images.pixels.clone(), patch.textures.clone()
    patched_predictions(network, images, patch, placement, 8)
    assert torch.equal(images.pixels, pixels)
    assert torch.equal(patch.textures, textures)


def test_the_patch_is_rounded_to_8_bits() -> None:
    """A network that reads one pixel tells 0.499/255, stored as 0, from 0.501/255, stored as 1."""

    def network(pasted: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.full_like(pasted[:, 0, 0, 0], 0.25 / 255), pasted[:, 0, 0, 0]], dim=1)

    black = ImageSet(torch.zeros(3, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), ("",) * 3)
    zeros = torch.zeros(3)
    corner = Placement(zeros.long(), zeros.long(), zeros, zeros + 1)
    answers = []
    for level in (0.0, 0.3, 0.499, 0.501, 0.999, 1.0):
        patch = Patch(torch.full((1, 3, SIZE, SIZE), level / 255), torch.ones(1, 1, SIZE, SIZE), (Untargeted(),))
        answers.append(patched_predictions(network, black, patch, corner, 2)[0].tolist())
    assert answers == [[0] * 3, [0] * 3, [0] * 3, [1] * 3, [1] * 3, [1] * 3]


def test_values_outside_the_range_are_not_an_advantage(images: ImageSet, placement: Placement) -> None:
    def network(pasted: torch.Tensor) -> torch.Tensor:
        assert float(pasted.min()) >= 0
        assert float(pasted.max()) <= 1
        return pasted.flatten(1)[:, :CLASSES]

    patch = Patch(torch.full((1, 3, SIZE, SIZE), 40.0), torch.ones(1, 1, SIZE, SIZE), (Untargeted(),))
    patched_predictions(network, images, patch, placement, 8)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_logits_that_are_not_finite_are_an_error(images: ImageSet, placement: Placement, value: str) -> None:
    """One image in many is enough: argmax of NaN would be counted as a class."""

    def network(pasted: torch.Tensor) -> torch.Tensor:
        logits = pasted.flatten(1)[:, :CLASSES].clone()
        logits[-1, 2] = float(value)
        return logits

    with pytest.raises(AttackError, match="not finite"):
        clean_predictions(network, images, 8)
    with pytest.raises(AttackError, match="not finite"):
        patched_predictions(network, images, patch_of((Untargeted(),), False), placement, 8)


def test_a_number_of_textures_that_fits_nothing_is_an_error(
    network: torch.nn.Module, images: ImageSet, placement: Placement
) -> None:
    patch = Patch(torch.rand(5, 3, SIZE, SIZE), torch.ones(5, 1, SIZE, SIZE), (Untargeted(),))
    with pytest.raises(AttackError, match="one for each of 37 images, found 5"):
        patched_predictions(network, images, patch, placement, 8)


def scripted(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[Goal, ...]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    clean = np.where(generator.random(count) < 0.7, labels, generator.integers(0, CLASSES, count))
    goals: tuple[Goal, ...] = (*map(Targeted, range(CLASSES)), Untargeted())
    patched = generator.integers(0, CLASSES, (len(goals), count))
    keep = generator.random((len(goals), count)) < generator.random((len(goals), 1))
    return labels, clean, np.where(keep, clean, patched), goals


@pytest.mark.parametrize("seed", range(20))
def test_counts_equal_a_loop_over_images(seed: int) -> None:
    labels, clean, patched, goals = scripted(seed, count=seed * 13)
    for goal, row, counts in zip(goals, patched, count_outcomes(labels, clean, patched, goals), strict=True):
        eligible = fooled = hit = robust = 0
        for label, before, after in zip(labels.tolist(), clean.tolist(), row.tolist(), strict=True):
            if before != label:
                continue
            if after == label:
                robust += 1
            if isinstance(goal, Targeted) and label == goal.class_id:
                continue
            eligible += 1
            if after != label:
                fooled += 1
            if isinstance(goal, Targeted) and after == goal.class_id:
                hit += 1
        assert (counts.n_eligible, counts.n_fooled, counts.n_hit, counts.n_robust) == (eligible, fooled, hit, robust)
        assert counts.goal == str(goal)


@pytest.mark.parametrize("seed", range(20))
def test_identities_of_the_definitions(seed: int) -> None:
    labels, clean, patched, goals = scripted(seed, count=200)
    counts = count_outcomes(labels, clean, patched, goals)
    correct = int((clean == labels).sum())
    for count in counts:
        assert 0 <= count.n_hit <= count.n_fooled <= count.n_eligible <= correct
    untargeted = counts[-1]
    assert untargeted.n_hit == 0
    assert untargeted.n_eligible == correct
    # robust_accuracy = clean_accuracy * (1 - asr), in integers: nobody is excluded from the denominator.
    assert untargeted.n_robust == correct - untargeted.n_fooled
    robust_accuracy, clean_accuracy = untargeted.n_robust / 200, correct / 200
    assert robust_accuracy == pytest.approx(clean_accuracy * (1 - untargeted.n_fooled / untargeted.n_eligible))
    for target, count in enumerate(counts[:-1]):
        of_target = int(((clean == labels) & (labels == target)).sum())
        assert count.n_eligible == correct - of_target
        still_right = int(((clean == labels) & (labels == target) & (patched[target] == labels)).sum())
        assert count.n_robust == count.n_eligible - count.n_fooled + still_right


def test_the_ways_to_miscount_give_other_numbers() -> None:
    """Clean errors, images of the target class and corrected mistakes each stay out of the rate."""
    labels = np.array([0, 0, 1, 2, 2, 1])
    clean = np.array([0, 1, 1, 2, 0, 1])  # images 1 and 4 are wrong when clean
    patched = np.array([[1, 1, 1, 1, 2, 0]])
    (counts,) = count_outcomes(labels, clean, patched, (Targeted(1),))
    assert counts.n_eligible == 2, "images 0 and 3: right when clean, label not 1"
    assert counts.n_fooled == counts.n_hit == 2
    assert counts.n_robust == 1, "image 2; image 4 became right under the patch, which is no robustness"


def test_predictions_and_goals_must_pair_up() -> None:
    with pytest.raises(ValueError, match="zip"):
        count_outcomes(np.zeros(3), np.zeros(3), np.zeros((2, 3)), (Untargeted(),))


@pytest.mark.parametrize("seed", range(3))
def test_queries_are_counted_like_a_loop_over_images(seed: int) -> None:
    labels, clean, patched, goals = scripted(seed, 60)
    spent = np.random.default_rng(seed).integers(1, 20_000, (len(goals), 60))
    found = count_queries(labels, clean, patched, goals, torch.from_numpy(spent.reshape(-1)))
    for count in found:
        expected = 0
        for index, goal in enumerate(goals):
            target = goal.class_id if isinstance(goal, Targeted) else None
            for image in range(60):
                eligible = clean[image] == labels[image] and labels[image] != target
                expected += eligible and patched[index][image] != labels[image] and spent[index][image] <= count.budget
        assert count.n_fooled == expected
    assert [count.budget for count in found] == [1_000, 5_000, 10_000]
    assert found[0].n_fooled <= found[1].n_fooled <= found[2].n_fooled
    assert found[2].n_fooled < sum(each.n_fooled for each in count_outcomes(labels, clean, patched, goals))


@pytest.mark.parametrize("seed", range(3))
def test_images_that_an_attack_left_alone_count_for_nothing_but_robustness(seed: int) -> None:
    labels, clean, patched, goals = scripted(seed, 60)
    attacked = np.random.default_rng(seed).random(patched.shape) < 0.7
    everything = count_outcomes(labels, clean, patched, goals)
    found = count_outcomes(labels, clean, patched, goals, attacked)
    for index, (goal, count, whole) in enumerate(zip(goals, found, everything, strict=True)):
        kept = attacked[index]
        alone = {"labels": labels[kept], "clean": clean[kept], "patched": patched[index : index + 1, kept]}
        (part,) = count_outcomes(**alone, goals=(goal,))
        assert (count.n_eligible, count.n_fooled, count.n_hit) == (part.n_eligible, part.n_fooled, part.n_hit)
        assert count.n_left_alone == whole.n_eligible - count.n_eligible > 0
        assert (count.n_robust, whole.n_left_alone) == (whole.n_robust, 0)
    names = tuple(str(goal) for goal in goals)
    assert Outcomes(labels, clean, patched, names, attacked).counts() == found
    assert_identities("cell", int((clean == labels).sum()), found)
    spent = torch.ones(patched.size, dtype=torch.int64)
    queries = count_queries(labels, clean, patched, goals, spent, attacked)
    assert queries[0].n_fooled == sum(count.n_fooled for count in found)


def test_rates_that_contradict_the_images_left_alone_are_refused() -> None:
    fair = GoalCounts(goal="untargeted", n_eligible=6, n_fooled=4, n_hit=0, n_robust=4, n_left_alone=4)
    assert_identities("cell", 10, [fair])
    for odd in ({"n_eligible": 7}, {"n_robust": 1}, {"n_robust": 7}, {"n_left_alone": 3}):
        with pytest.raises(AssertionError, match="robust_accuracy is not clean_accuracy"):
            assert_identities("cell", 10, [fair.model_copy(update=odd)])
