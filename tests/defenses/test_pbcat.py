"""PBCAT for classifiers: which pixels are changed how much, by hand and by count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from qpatchbench.data.base import Splits
from qpatchbench.defenses.at_pgd import PgdAdversarialTraining
from qpatchbench.defenses.base import Batch
from qpatchbench.defenses.pbcat import PatchCompositeTraining
from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.errors import TrainingError
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import initialize, prepare
from qpatchbench.registry import DEFENSES
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.training.switching import Switch
from qpatchbench.types import FLOAT, Bits
from tests.defenses.watched import EIGHT, FOUR, TWO, Watched, batch, step
from tests.training.conftest import SIDE, Run, TinyNet, same

Train = Callable[..., Run]
SIZE = 4


def pbcat(**fields: Any) -> PatchCompositeTraining:  # noqa: ANN401
    return PatchCompositeTraining.model_validate({"name": "pbcat", "size": SIZE, **fields})


def masks(defense: PatchCompositeTraining, network: Watched, clean: Batch, index: int = 0) -> torch.Tensor:
    return defense.mask(network.at(FOUR), clean.images, clean.labels, step(index))


def gradient_map(network: Watched, clean: Batch) -> torch.Tensor:
    """(B, H, W): norm over channels of the input gradient, in closed form."""
    probabilities = network.logits(clean.images, FOUR).softmax(dim=1)
    wrong = probabilities - functional.one_hot(clean.labels, probabilities.shape[1])
    slope = (wrong @ (network.weight * 1.25).T).view_as(clean.images)  # the weight at 4 bits
    return slope.detach().square().sum(dim=1).sqrt()


def squares(defense: PatchCompositeTraining, clean: Batch, index: int = 0) -> torch.Tensor:
    """The whole squares of the same draws."""
    return masks(defense.model_copy(update={"selection": "square"}), Watched(), clean, index)


# Which pixels.


@pytest.mark.parametrize(("size", "cells"), [(4, 8), (4, 4), (4, 2), (6, 3), (6, 8), (8, 8), (8, 4)])
@pytest.mark.parametrize("selection", ["gradient", "random"])
def test_exactly_half_of_the_square_is_selected(size: int, cells: int, selection: str) -> None:
    """With an even number of equal cells; nine cells are four and five."""
    clean, defense = batch(40), pbcat(size=size, cells=cells, selection=selection)
    selected, whole = masks(defense, Watched(), clean), squares(defense, clean)
    assert selected.shape == (40, 1, SIDE, SIDE)
    assert set(selected.flatten().tolist()) == {0.0, 1.0}
    assert whole.flatten(1).sum(dim=1).tolist() == [size * size] * 40
    assert (selected <= whole).all(), "a selected pixel lies outside the square"
    per_side = min(size, cells)
    expected = per_side**2 // 2 * (size // per_side) ** 2
    assert selected.flatten(1).sum(dim=1).tolist() == [expected] * 40
    assert expected == size * size // 2 or per_side == 3


@pytest.mark.parametrize("cells", [4, 2])
def test_selected_cells_are_those_of_the_largest_gradient(cells: int) -> None:
    network, clean, defense = Watched(), batch(40), pbcat(cells=cells)
    selected, whole, norms = masks(defense, network, clean), squares(defense, clean), gradient_map(network, clean)
    block = SIZE // cells
    for index in range(40):
        rows, columns = whole[index, 0].nonzero().unbind(dim=1)
        window = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        pooled = functional.avg_pool2d(norms[index][window].view(1, 1, SIZE, SIZE), block).flatten()
        chosen = functional.max_pool2d(selected[index, 0][window].view(1, 1, SIZE, SIZE), block).flatten() > 0
        assert int(chosen.sum()) == cells * cells // 2
        assert float(pooled[chosen].min()) > float(pooled[~chosen].max())


def test_the_gradient_is_one_pass_at_the_clean_images() -> None:
    network, clean = Watched(), batch()
    masks(pbcat(), network, clean)
    (call,) = network.calls
    assert call.graded
    assert torch.equal(call.images, clean.images)
    assert not clean.images.requires_grad
    assert network.weight.grad is None
    for selection in ("random", "square"):
        other = Watched()
        masks(pbcat(selection=selection), other, clean)
        assert other.calls == []


def test_without_a_gradient_still_half_is_selected() -> None:
    network = Watched()
    network.weight.data.zero_()
    selected = masks(pbcat(), network, batch(40))
    assert selected.flatten(1).sum(dim=1).tolist() == [SIZE * SIZE // 2] * 40


def test_squares_lie_uniformly_last_row_and_column_included() -> None:
    clean = Batch(torch.zeros(2500, 3, SIDE, SIDE), torch.zeros(2500, dtype=torch.int64))
    whole = squares(pbcat(), clean)[:, 0]
    tops, lefts = whole.any(dim=2).int().argmax(dim=1), whole.any(dim=1).int().argmax(dim=1)
    counts = Counter(zip(tops.tolist(), lefts.tolist(), strict=True))
    assert len(counts) == 25
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 51.2, "chi-square, 24 degrees, 1 in 1,000"
    assert squares(pbcat(cells=1), clean).equal(whole.unsqueeze(1)), "the number of cells moves no square"
    assert torch.equal(masks(pbcat(cells=1), Watched(), batch()), squares(pbcat(), batch())), "one cell is the square"


def test_only_some_images_have_a_square_where_asked() -> None:
    clean = Batch(torch.zeros(2000, 3, SIDE, SIDE), torch.zeros(2000, dtype=torch.int64))
    some, every = squares(pbcat(patch_probability=0.3), clean), squares(pbcat(), clean)
    present = some.flatten(1).any(dim=1)
    assert float(present.float().mean()) == pytest.approx(0.3, abs=0.05)
    assert torch.equal(some[present], every[present])
    assert not squares(pbcat(patch_probability=0.0), clean).any()


def test_the_default_cells_on_cifar_and_imagenet() -> None:
    """6 x 6 pixels: 18 of 36; 44 x 44: 32 of 64 cells of 5 or 6 pixels a side."""
    default = PatchCompositeTraining(name="pbcat")
    for side, expected in ((32, (18, 18)), (224, (32 * 25, 32 * 36))):
        images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        weight = torch.randn(3 * side * side, 2, generator=torch.Generator().manual_seed(1)) / side
        found = default.mask(lambda x, w=weight: x.flatten(1) @ w, images, torch.tensor([0, 1]), step())  # type: ignore[misc]  # a default binds the loop's weight
        areas = found.flatten(1).sum(dim=1)
        assert (areas >= expected[0]).all()
        assert (areas <= expected[1]).all()


# How much.


@pytest.mark.numerical
@pytest.mark.parametrize("fields", [{}, {"patch_epsilon": 1.0, "patch_step_size": 0.1}, {"epsilon": 0.0}])
def test_every_pixel_keeps_its_own_bound(fields: dict[str, float]) -> None:
    network, clean, defense = Watched(), batch(40), pbcat(**fields)
    mask = masks(defense, Watched(), clean).expand_as(clean.images) > 0
    found = defense.attacked(network.at(FOUR), clean.images, clean.labels, step())
    for images in (found, *(call.images for call in network.calls[1:])):
        change = (images - clean.images).abs()
        assert float(change[mask].max()) <= defense.patch_epsilon + 1e-6
        assert float(change[~mask].max()) <= defense.epsilon + 1e-6
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1
    assert float((found - clean.images).abs()[mask].max()) > 0.9 * defense.patch_epsilon, "the bound is not used"
    assert float((found - clean.images).abs()[~mask].max()) >= 0.9 * defense.epsilon
    for before, after in zip(network.calls[1:], network.calls[2:], strict=False):
        change = (after.images - before.images).abs()
        assert float(change[mask].max()) <= defense.patch_step_size + 1e-6
        assert float(change[~mask].max()) <= defense.step_size + 1e-6


def test_the_global_noise_ends_where_the_mask_begins() -> None:
    """A patch of no strength leaves the selected cells as they are, whatever the noise is."""
    clean, defense = batch(40), pbcat(patch_epsilon=0.0, epsilon=0.1)
    mask = masks(defense, Watched(), clean).expand_as(clean.images) > 0
    found = defense.attacked(Watched().at(FOUR), clean.images, clean.labels, step())
    assert torch.equal(found[mask], clean.images[mask])
    assert float((found != clean.images)[~mask].float().mean()) > 0.8


def test_enough_steps_reach_the_optimum_of_a_linear_network() -> None:
    network, clean = Watched(classes=2), batch(40)
    labels = clean.labels % 2
    defense = pbcat(steps=40)
    mask = defense.mask(network.at(FOUR), clean.images, labels, step()) > 0
    found = defense.attacked(network.at(FOUR), clean.images, labels, step())
    uphill = (network.weight.T[1 - labels] - network.weight.T[labels]).view_as(clean.images)
    bound = torch.where(mask, 64 / 255, 4 / 255)
    assert torch.allclose(found, (clean.images + bound * uphill.sign()).clamp(0, 1), atol=1e-6)
    assert not found.requires_grad


@pytest.mark.numerical
def test_selecting_by_gradient_does_more_than_at_random() -> None:
    network, clean, losses = Watched(), batch(40), {}
    for selection in ("random", "gradient", "square"):
        defense = pbcat(selection=selection, steps=20, epsilon=0.0)
        found = [defense.attacked(network.at(FOUR), clean.images, clean.labels, step(index)) for index in range(4)]
        means = [functional.cross_entropy(network.logits(images, FOUR), clean.labels).detach() for images in found]
        losses[selection] = float(torch.stack(means).mean())
    assert losses["random"] < losses["gradient"] < losses["square"]


def test_without_squares_it_is_training_with_pgd() -> None:
    """Same draws, same ball: the global noise alone."""
    clean = batch()
    own = pbcat(patch_probability=0.0).attacked(Watched().at(FOUR), clean.images, clean.labels, step())
    madry = PgdAdversarialTraining(name="at_pgd", epsilon=4 / 255, step_size=4 / 255, steps=10)
    assert torch.equal(own, madry.attacked(Watched().at(FOUR), clean.images, clean.labels, step()))


def test_one_step_and_seed_decide_the_attack() -> None:
    clean, before = batch(), torch.get_rng_state()
    made = [
        pbcat().attacked(Watched().at(FOUR), clean.images, clean.labels, chosen)
        for chosen in (step(1), step(1), step(2), step(1, seed=3))
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[3])
    assert torch.equal(torch.get_rng_state(), before)


# The step.


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_loss_by_hand(share: float) -> None:
    network, clean, defense = Watched(), batch(), pbcat(adversarial_share=share)
    losses = defense.loss(network, clean, step())
    (images,) = (call.images for call in network.calls if not call.eval)
    kept = 12 - int(12 * share)
    assert torch.equal(images[:kept], clean.images[:kept])
    assert torch.equal(
        images[kept:], defense.attacked(Watched().at(FOUR), clean.images[kept:], clean.labels[kept:], step())
    )
    assert set(losses) == ({"clean", "adversarial"} if kept else {"adversarial"})
    (gradient,) = torch.autograd.grad(torch.stack(list(losses.values())).sum(), network.weight)
    mean = functional.cross_entropy(network.logits(images, FOUR), clean.labels)
    (expected,) = torch.autograd.grad(mean, network.weight)
    assert torch.allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("selection", ["gradient", "random", "square"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_estimate_of_passes_is_the_count(selection: str, share: float) -> None:
    network, defense = Watched(), pbcat(selection=selection, adversarial_share=share)
    defense.loss(network, batch(), step())
    assert defense.passes((FOUR,)) == sum(3 * len(call.images) for call in network.calls) / 12
    assert pbcat().passes((FOUR,)) == 3 * 12


@pytest.mark.parametrize("scale", ["paper", "ema", "min_max"])
def test_the_attack_leaves_statistics_and_observers_alone(scale: str) -> None:
    torch.manual_seed(0)
    module = TinyNet()
    prepare(module, (FOUR, EIGHT), Qat.model_validate({"name": "qat", "bits": (FOUR, EIGHT), "scale": scale}))
    initialize(module, batch().images)
    module.train()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    seen: list[torch.Tensor] = []

    def forward(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.detach().clone())
        torch.manual_seed(1)  # dropout
        logits: torch.Tensor = module(images)
        return logits

    pbcat(steps=2).loss(Switch(module, forward, quantized=True), batch(), step(bits=(EIGHT,)))
    after = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(start)
    torch.manual_seed(1)
    Switch(module, module, quantized=True).at(EIGHT)(seen[-1])
    assert same(after, module.state_dict())
    assert not same(after, start)


def test_widths() -> None:
    widths = (FLOAT, EIGHT, FOUR, TWO)
    assert pbcat().bit_groups(widths) == tuple((width,) for width in widths)
    assert pbcat(joint=True).bit_groups(widths) == (widths,)
    attacked = Counter[Bits]()
    for index in range(60):
        network = Watched()
        pbcat(joint=True, steps=1).loss(network, batch(), step(index, widths[1:]))
        assert [call.bits for call in network.calls if not call.eval] == list(widths[1:])
        (width,) = {call.bits for call in network.calls if call.eval}
        attacked[width] += 1
    assert min(attacked[width] for width in widths[1:]) > 8


@pytest.mark.parametrize(
    ("fields", "count", "message"),
    [
        ({"size": 9}, 12, "no larger than the training images of 8 x 8 pixels, found 9 x 9"),
        ({"adversarial_share": 0.5}, 1, "batch_size of at least 2, of which a share of 0.5 is attacked, found 1"),
    ],
)
def test_what_does_not_fit_is_an_error(fields: dict[str, Any], count: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        pbcat(**fields).loss(Watched(), batch(count), step())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("cells", 0), ("selection", "all"), ("epsilon", -1), ("patch_epsilon", 1.1), ("step_size", 0),
        ("patch_step_size", 0), ("patch_probability", 1.1), ("adversarial_share", -0.1), ("size", 0), ("free", 8),
    ],
)  # fmt: skip
def test_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        pbcat(**{field: value})


def test_it_is_in_the_catalogue() -> None:
    assert DEFENSES.get("pbcat") is PatchCompositeTraining
    assert DEFENSES.entries["pbcat"].summary.startswith("PBCAT-cls")


# Training, with the real loop.


@pytest.fixture
def task(quantizer: Qat, settings: TrainingSettings) -> dict[str, Any]:
    chosen = settings.model_copy(update={"epochs": 2})
    return {"quantizer": quantizer, "bits": (FOUR,), "settings": chosen}


@pytest.mark.parametrize("fields", [{"epsilon": 0, "patch_epsilon": 0}, {"adversarial_share": 0}], ids=str)
def test_without_an_attack_it_is_separate_qat_to_the_bit(
    run: Train, task: dict[str, Any], fields: dict[str, Any]
) -> None:
    plain = run(defense=QuantizationAwareTraining(name="qat", joint=False), **task)
    assert same(run(defense=pbcat(steps=2, **fields), **task).state, plain.state)


def test_jointly_without_an_attack_it_is_joint_qat_to_the_bit(run: Train, task: dict[str, Any], quantizer: Qat) -> None:
    task["bits"] = quantizer.bits
    plain = run(defense=QuantizationAwareTraining(name="qat"), **task)
    assert same(run(defense=pbcat(joint=True, adversarial_share=0), **task).state, plain.state)


def test_without_squares_it_learns_what_training_with_pgd_does(run: Train, task: dict[str, Any]) -> None:
    madry = PgdAdversarialTraining(name="at_pgd", epsilon=4 / 255, step_size=4 / 255, steps=3)
    assert same(run(defense=pbcat(patch_probability=0, steps=3), **task).state, run(defense=madry, **task).state)


def test_every_part_changes_what_is_learned(run: Train, task: dict[str, Any]) -> None:
    variants: list[dict[str, Any]] = [
        {}, {"cells": 2}, {"selection": "random"}, {"selection": "square"}, {"patch_probability": 0.5},
        {"epsilon": 0}, {"patch_epsilon": 0}, {"patch_epsilon": 1.0}, {"step_size": 0.001},
        {"patch_step_size": 0.1}, {"size": 6}, {"adversarial_share": 0.5}, {"steps": 3},
    ]  # fmt: skip
    states = [run(defense=pbcat(**{"steps": 2, **fields}), **task).state for fields in variants]
    for index, state in enumerate(states):
        assert all(bool(torch.isfinite(value).all()) for value in state.values())
        for other in range(index):
            assert not same(state, states[other]), f"{variants[index]} learns what {variants[other]} does"


def test_training_resumes_to_the_bit(run: Train, task: dict[str, Any]) -> None:
    fields = {**task, "defense": pbcat(steps=2)}
    whole = run(**fields)
    assert same(run(snapshot=whole.snapshots[1], **fields).state, whole.state)
    assert not same(run(**fields, seed=1).state, whole.state)


@pytest.mark.numerical
def test_a_network_trained_with_it_resists_it_better(run: Train, splits: Splits) -> None:
    settings = TrainingSettings(epochs=12, batch_size=24, learning_rate=0.05, schedule="cosine", augmentation="none")
    task = {"quantizer": Qat(name="qat", bits=(FLOAT,)), "bits": (FLOAT,), "settings": settings}
    images = Batch(to_float(splits.train.pixels[:96]), splits.train.labels[:96])
    lost = {}
    for share in (0.0, 1.0):
        module = TinyNet()
        prepare(module, (FLOAT,), task["quantizer"])
        module.load_state_dict(run(defense=pbcat(adversarial_share=share, steps=5), **task).state)
        module.eval()
        attack = pbcat(steps=20)
        found = attack.attacked(module, images.images, images.labels, step(10_000))
        lost[share] = float(functional.cross_entropy(module(found), images.labels).detach())
    assert lost[1.0] < 0.9 * lost[0.0]
