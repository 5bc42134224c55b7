"""Adversarial patch training: the attack of its paper, what is trained on, and plain training where nothing is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from qpatchbench.data.base import Splits
from qpatchbench.defenses.base import Batch
from qpatchbench.defenses.none import NoDefense
from qpatchbench.defenses.pbat import FloatPatchAdversarialTraining, PatchAdversarialTraining
from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.errors import AttackError, TrainingError
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import ImageDraws
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import initialize, prepare
from qpatchbench.registry import DEFENSES
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.training.switching import Switch
from qpatchbench.types import FLOAT, Bits
from tests.defenses.watched import EIGHT, FOUR, TWO, Watched, batch, step
from tests.training.conftest import SIDE, Run, TinyNet, same

Train = Callable[..., Run]
SIZE = 3
LOCATIONS = ("fixed", "random", "random_optimised", "fully_optimised")
BOX = (3, 3, 2, 2)


def pbat(**fields: Any) -> PatchAdversarialTraining:  # noqa: ANN401
    return PatchAdversarialTraining.model_validate({"name": "pbat", "size": SIZE, **fields})


def pbat_float(**fields: Any) -> FloatPatchAdversarialTraining:  # noqa: ANN401
    return FloatPatchAdversarialTraining.model_validate({"name": "pbat_float", "size": SIZE, **fields})


def errors(network: Watched, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (B,) at 4 bits."""
    return functional.cross_entropy(network.logits(images, FOUR), labels, reduction="none").detach()


def corners(images: torch.Tensor, clean: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """First and last row and column where each image differs from the clean one."""
    found = []
    for changed in (images != clean).any(dim=1):
        rows, columns = changed.any(dim=1).nonzero().flatten(), changed.any(dim=0).nonzero().flatten()
        found.append((int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])))
    return found


# The attack.


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("steps", [0, 4])
def test_pixels_outside_one_square_are_untouched(location: str, steps: int) -> None:
    clean = batch(40)
    patched = pbat(location=location, steps=steps).patched(Watched().at(FOUR), clean.images, clean.labels, step())
    for top, bottom, left, right in corners(patched, clean.images):
        assert bottom - top < SIZE
        assert right - left < SIZE
    assert float(patched.min()) >= 0
    assert float(patched.max()) <= 1
    assert not patched.requires_grad


@pytest.mark.numerical
@pytest.mark.parametrize("location", LOCATIONS)
def test_more_steps_never_give_a_worse_patch(location: str) -> None:
    """Runs of different length begin alike, and the best iterate is kept: image by image, errors only rise."""
    network, clean = Watched(), batch(40)
    found = []
    for steps in (0, 1, 2, 3, 5, 8, 13):
        defense = pbat(location=location, steps=steps, step_size=0.3)  # overshoots, so that the last is not the best
        found.append(
            errors(network, defense.patched(network.at(FOUR), clean.images, clean.labels, step()), clean.labels)
        )
    assert all((after >= before - 1e-6).all() for before, after in zip(found, found[1:], strict=False))
    assert float(found[-1].mean()) > float(found[0].mean()) + 0.05


@pytest.mark.numerical
@pytest.mark.parametrize("location", LOCATIONS)
def test_the_best_iterate_is_kept_and_not_rounded(location: str) -> None:
    network, clean = Watched(), batch(40)
    defense = pbat(location=location, step_size=0.7, steps=8)
    patched = defense.patched(network.at(FOUR), clean.images, clean.labels, step())
    seen = torch.stack([call.images for call in network.calls if call.graded])
    best = torch.stack([errors(network, images, clean.labels) for images in seen]).argmax(dim=0)
    assert len(seen) == 9
    assert torch.equal(patched, seen[best, torch.arange(40)])
    assert (best < 8).any(), "the last is always the best: the test is void"


def test_the_best_iterate_is_that_of_the_lowest_probability_wrong_or_not() -> None:
    """The label has 0.45 in a wrong answer, then 0.3 in a right one, then 0.9: the right one is kept."""
    network, clean, seen = Watched(), batch(8), list[torch.Tensor]()
    chances = torch.tensor([[0.45, 0.53, 0.01, 0.01], [0.3, 0.25, 0.25, 0.2], [0.9, 0.05, 0.03, 0.02]])

    def scripted(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.detach().clone())
        return chances[len(seen) - 1].log() + 1e-4 * network.logits(images, FOUR)

    patched = pbat(steps=2).patched(scripted, clean.images, torch.zeros_like(clean.labels), step())
    assert len(seen) == 3
    assert torch.equal(patched, seen[1])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("location", LOCATIONS)
def test_the_excluded_box_is_never_touched(location: str) -> None:
    network, clean = Watched(), batch(40)
    defense = pbat(location=location, excluded=BOX, place=(0, 5), stride=1, steps=6)
    patched = defense.patched(network.at(FOUR), clean.images, clean.labels, step())
    inside = (slice(None), slice(None), slice(3, 5), slice(3, 5))
    for images in (patched, *(call.images for call in network.calls)):
        assert torch.equal(images[inside], clean.images[inside])
    assert len(network.calls) > 6


@pytest.mark.numerical
@pytest.mark.parametrize(("location", "directions"), [("random_optimised", 1), ("fully_optimised", 4)])
def test_a_patch_moves_with_its_content_and_only_for_the_better(location: str, directions: int) -> None:
    """On black images what is not black is the patch: staying, moved and taken hold the same pixels, bit for bit."""
    network, labels = Watched(), batch(40).labels
    pbat(location=location, step_size=0.02, steps=12).patched(
        network.at(FOUR), torch.zeros(40, 3, SIDE, SIDE), labels, step()
    )
    calls, moved = network.calls[1:], 0
    for first in range(0, len(calls), directions + 2):
        stay, *tried, outcome = (call.images for call in calls[first : first + directions + 2])
        assert calls[first + directions + 1].graded
        offered = torch.stack([errors(network, images, labels) for images in (stay, *tried)])
        assert torch.equal(errors(network, outcome, labels), offered.max(dim=0).values)
        for images in (*tried, outcome):
            for index, (own, other) in enumerate(zip(stay, images, strict=True)):
                assert torch.equal(own[own > 0], other[other > 0]), f"image {index} has another patch"
        moved += int((stay != outcome).flatten(1).any(dim=1).sum())
    assert moved > 20, "hardly any patch moved: the test is void"


@pytest.mark.parametrize("location", ["fixed", "random"])
def test_without_steps_it_is_random_occlusion(location: str) -> None:
    """Noise of the step's own draws, pasted and not optimised; the network is never asked."""
    network, clean = Watched(), batch(40)
    defense = pbat(location=location, steps=0)
    patched = defense.patched(network.at(FOUR), clean.images, clean.labels, step(3))
    assert network.calls == []
    noise = ImageDraws.of(40, step(3).draws("patch"), torch.device("cpu")).uniform(3, SIZE, SIZE)
    for index, (top, _, left, _) in enumerate(corners(patched, clean.images)):
        assert torch.equal(patched[index, :, top : top + SIZE, left : left + SIZE], noise[index])
        assert location == "random" or (top, left) == (3, 3)


def test_random_places_are_uniform_over_all_positions() -> None:
    images, labels = torch.zeros(3600, 3, SIDE, SIDE), torch.zeros(3600, dtype=torch.int64)
    patched = pbat(steps=0).patched(Watched().at(FOUR), images, labels, step())
    counts = Counter((top, left) for top, _, left, _ in corners(patched, images))
    assert len(counts) == 36, "the last row and column are included"
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 66.6, "chi-square, 35 degrees, 1 in 1,000"


@pytest.mark.numerical
def test_steps_reach_the_optimum_of_a_linear_network() -> None:
    """Two classes: at a fixed place the best patch is the vertex where w_other - w_label is positive."""
    network, clean = Watched(classes=2), batch(40)
    labels = clean.labels % 2
    patched = pbat(location="fixed", place=(2, 4)).patched(network.at(FOUR), clean.images, labels, step())
    uphill = (network.weight.T[1 - labels] - network.weight.T[labels]).view_as(clean.images)
    window = (slice(None), slice(None), slice(2, 2 + SIZE), slice(4, 4 + SIZE))
    assert torch.equal(patched[window], (uphill[window] > 0).float())


@pytest.mark.numerical
def test_optimised_places_raise_the_loss_further() -> None:
    network, clean = Watched(), batch(40)
    means = {}
    for location in LOCATIONS:
        found = [
            errors(network, pbat(location=location).patched(network.at(FOUR), clean.images, clean.labels, step(index)),
                   clean.labels).mean()
            for index in range(4)
        ]  # fmt: skip
        means[location] = float(torch.stack(found).mean())
    assert means["random"] < means["random_optimised"] < means["fully_optimised"]


def test_one_step_and_seed_decide_the_patches() -> None:
    clean, before = batch(), torch.get_rng_state()
    made = [
        pbat(location="random_optimised", steps=3).patched(Watched().at(FOUR), clean.images, clean.labels, chosen)
        for chosen in (step(1), step(1), step(2), step(1, seed=3))
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[3])
    assert torch.equal(torch.get_rng_state(), before)


# The step.


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
def test_the_loss_by_hand(location: str, share: float) -> None:
    """One pass over both parts; weights are the shares of the samples, so gradients are those of one plain mean."""
    network, clean, defense = Watched(), batch(), pbat(location=location, adversarial_share=share, steps=3)
    losses = defense.loss(network, clean, step())
    (trained,) = network.trained
    assert trained.bits == FOUR
    kept = 12 - int(12 * share)
    assert torch.equal(trained.images[:kept], clean.images[:kept])
    assert torch.equal(
        trained.images[kept:], defense.patched(Watched().at(FOUR), clean.images[kept:], clean.labels[kept:], step())
    )
    assert set(losses) == ({"clean", "patched"} if kept else {"patched"})
    (gradient,) = torch.autograd.grad(torch.stack(list(losses.values())).sum(), network.weight)
    mean = functional.cross_entropy(network.logits(trained.images, FOUR), clean.labels)
    (expected,) = torch.autograd.grad(mean, network.weight)
    assert torch.allclose(gradient, expected, atol=1e-6)
    own = errors(network, trained.images, clean.labels)
    assert float(losses["patched"].detach()) == pytest.approx(float(own[kept:].sum()) / 12, rel=1e-5)
    assert network.weight.grad is None, "the attack left a gradient"


def test_the_odd_image_is_clean_as_in_halves() -> None:
    network, clean = Watched(), batch(9)
    pbat(steps=1).loss(network, clean, step())
    first, second = clean.halves()
    assert torch.equal(network.trained[0].images[: len(first.labels)], first.images)
    assert len(network.attacked[0].images) == len(second.labels) == 4


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("stride", [0, 2])
def test_the_estimate_of_passes_is_the_count(location: str, steps: int, stride: int) -> None:
    network, defense = Watched(), pbat(location=location, steps=steps, stride=stride)
    defense.loss(network, batch(), step())
    graded = [call for call in network.attacked if call.graded]
    assert len(graded) == (steps + 1 if steps else 0)
    # The last gradient pass only judges the last iterate.
    attack = len(network.attacked) + 2 * steps
    assert defense.passes((FOUR,)) == 3 + 0.5 * attack
    assert all(call.bits == FOUR for call in network.calls)


def test_the_papers_cost() -> None:
    """13.5 times plain training, and a forward pass on half the batch that judges the last iterate."""
    assert pbat().passes((FOUR,)) / 3 == pytest.approx(13.5, abs=0.2)
    assert pbat_float().passes((FLOAT,)) == pbat().passes((FOUR,))


def trainable(scale: str = "paper") -> TinyNet:
    module = TinyNet()
    prepare(module, (FOUR, EIGHT), Qat.model_validate({"name": "qat", "bits": (FOUR, EIGHT), "scale": scale}))
    initialize(module, batch().images)
    return module.train()


@pytest.mark.parametrize("scale", ["paper", "ema", "min_max"])
def test_the_attack_leaves_statistics_and_observers_alone(scale: str) -> None:
    """After the whole step they are what one pass in training mode over the same images makes of them."""
    torch.manual_seed(0)
    module = trainable(scale)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    seen: list[torch.Tensor] = []

    def forward(images: torch.Tensor) -> torch.Tensor:
        if module.training:
            seen.append(images.detach().clone())
            torch.manual_seed(1)  # dropout
        logits: torch.Tensor = module(images)
        return logits

    pbat(location="random_optimised", steps=2).loss(Switch(module, forward, quantized=True), batch(), step())
    after = {name: value.clone() for name, value in module.state_dict().items()}
    assert module.training
    (images,) = seen
    module.load_state_dict(start)
    torch.manual_seed(1)
    Switch(module, module, quantized=True).at(FOUR)(images)
    assert same(after, module.state_dict())
    assert not same(after, start)
    assert int(after["norm.at_bits.4.num_batches_tracked"]) == 1


def test_a_width_is_attacked_and_trained_alone() -> None:
    widths = (FLOAT, EIGHT, FOUR, TWO)
    assert pbat().bit_groups(widths) == tuple((width,) for width in widths)
    assert pbat(joint=True).bit_groups(widths) == (widths,)
    for width in widths:
        network = Watched()
        pbat(steps=1).loss(network, batch(), step(bits=(width,)))
        assert {call.bits for call in network.calls} == {width}


def test_joint_training_attacks_one_width_and_trains_all() -> None:
    widths, attacked = (EIGHT, FOUR, TWO), Counter[Bits]()
    for index in range(60):
        network = Watched()
        pbat(joint=True, steps=1).loss(network, batch(), step(index, widths))
        assert [call.bits for call in network.trained] == list(widths)
        assert all(torch.equal(call.images, network.trained[0].images) for call in network.trained)
        (width,) = {call.bits for call in network.attacked}
        attacked[width] += 1
    assert min(attacked[width] for width in widths) > 8


# Errors.


@pytest.mark.parametrize(
    ("fields", "count", "message"),
    [
        ({"size": 9}, 12, "no larger than the training images of 8 x 8 pixels, found 9 x 9"),
        ({}, 1, "batch_size of at least 2, of which a share of 0.5 is attacked, found 1"),
        ({"location": "fixed", "place": (6, 0)}, 12, r"mine: .* rows 0..5 and columns 0..5, .* found \[6, 0\]"),
        ({"location": "fixed", "place": (0, 6)}, 12, r"beside the excluded box, found \[0, 6\]"),
        ({"location": "fixed", "excluded": (4, 4, 1, 1)}, 12, r"beside the excluded box, found \[3, 3\]"),
    ],
)
def test_what_does_not_fit_is_an_error(fields: dict[str, Any], count: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        pbat(label="mine", **fields).loss(Watched(), batch(count), step())


def test_a_box_that_leaves_no_room_is_an_error() -> None:
    with pytest.raises(AttackError, match="none; make the box or the patch smaller"):
        pbat(excluded=(2, 2, 4, 4)).loss(Watched(), batch(), step())


def test_a_network_that_is_not_finite_is_an_error_with_advice() -> None:
    network = Watched()
    network.weight.data.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"^pbat: the loss is not finite at step 0 of 25.* smaller learning_rate"):
        pbat().loss(network, batch(), step())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", -1), ("step_size", 0), ("step_size", 1.5), ("stride", -1), ("location", "anywhere"), ("size", 0),
        ("place", (-1, 3)), ("place", (3,)), ("excluded", (-1, 0, 3, 3)), ("excluded", (0, 0, 0, 3)),
        ("adversarial_share", 1.1), ("adversarial_share", -0.1), ("restarts", 3),
    ],
)  # fmt: skip
def test_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        pbat(**{field: value})


def test_both_are_in_the_catalogue_and_only_one_trains_quantizers() -> None:
    assert DEFENSES.get("pbat") is PatchAdversarialTraining
    assert DEFENSES.get("pbat_float") is FloatPatchAdversarialTraining
    assert pbat().quantization_aware
    assert not pbat_float().quantization_aware
    with pytest.raises(ValidationError, match="joint"):
        pbat_float(joint=True)
    default = PatchAdversarialTraining(name="pbat")
    assert (default.size.side(32), default.steps, default.step_size, default.location) == (8, 25, 0.1, "random")


# Training, with the real loop.


@pytest.fixture
def task(quantizer: Qat, settings: TrainingSettings) -> dict[str, Any]:
    chosen = settings.model_copy(update={"epochs": 2})
    return {"quantizer": quantizer, "bits": (FOUR,), "settings": chosen}


def test_with_no_share_it_is_separate_qat_to_the_bit(run: Train, task: dict[str, Any]) -> None:
    plain = run(defense=QuantizationAwareTraining(name="qat", joint=False), **task)
    assert same(run(defense=pbat(adversarial_share=0), **task).state, plain.state)
    assert not same(run(defense=pbat(steps=0), **task).state, plain.state)


def test_jointly_with_no_share_it_is_joint_qat_to_the_bit(run: Train, task: dict[str, Any], quantizer: Qat) -> None:
    task["bits"] = quantizer.bits
    plain = run(defense=QuantizationAwareTraining(name="qat"), **task)
    assert same(run(defense=pbat(joint=True, adversarial_share=0), **task).state, plain.state)
    assert not same(run(defense=pbat(joint=True, steps=1), **task).state, plain.state)


def test_in_float_with_no_share_it_is_plain_training_to_the_bit(run: Train) -> None:
    plain = run(defense=NoDefense(name="none"))
    assert same(run(defense=pbat_float(adversarial_share=0)).state, plain.state)
    assert not same(run(defense=pbat_float(steps=1)).state, plain.state)


def test_variants_learn_different_things_and_all_of_them_are_finite(run: Train, task: dict[str, Any]) -> None:
    variants: list[dict[str, Any]] = [
        *({"location": location} for location in LOCATIONS), {"steps": 0}, {"step_size": 0.3}, {"size": 4},
        {"adversarial_share": 0.25}, {"excluded": BOX}, {"location": "random_optimised", "stride": 1},
    ]  # fmt: skip
    states = [run(defense=pbat(**{"steps": 2, **fields}), **task).state for fields in variants]
    for index, state in enumerate(states):
        assert all(bool(torch.isfinite(value).all()) for value in state.values())
        for other in range(index):
            assert not same(state, states[other]), f"{variants[index]} learns what {variants[other]} does"


@pytest.mark.parametrize("location", ["random", "random_optimised"])
def test_training_resumes_to_the_bit(run: Train, task: dict[str, Any], location: str) -> None:
    fields = {**task, "defense": pbat(steps=2, location=location)}
    whole = run(**fields)
    assert same(run(snapshot=whole.snapshots[1], **fields).state, whole.state)
    assert not same(run(**fields, seed=1).state, whole.state)


@pytest.mark.numerical
def test_mixed_precision_attacks_too(run: Train, task: dict[str, Any]) -> None:
    half = {**task, "settings": task["settings"].model_copy(update={"precision": "bf16-mixed"})}
    losses = [run(defense=pbat(steps=3), **chosen).snapshots[2].log[0]["losses"] for chosen in (task, half)]
    assert losses[1]["patched"] == pytest.approx(losses[0]["patched"], rel=0.1)
    assert losses[1] != losses[0]


@pytest.mark.numerical
def test_a_network_trained_with_patches_resists_them_better(run: Train, splits: Splits) -> None:
    """Against other patches than those it was trained on, in float."""
    settings = TrainingSettings(epochs=12, batch_size=24, learning_rate=0.05, schedule="cosine", augmentation="none")
    images = Batch(to_float(splits.train.pixels[:96]), splits.train.labels[:96])
    lost = {}
    for share in (0.0, 0.5):
        module = TinyNet()
        module.load_state_dict(run(defense=pbat_float(adversarial_share=share, steps=5), settings=settings).state)
        module.eval()
        patched = pbat_float(steps=20).patched(module, images.images, images.labels, step(10_000))
        lost[share] = float(functional.cross_entropy(module(patched), images.labels).detach())
    assert lost[0.5] < 0.9 * lost[0.0]
