"""Adversarial training with PGD: ball, ascent, modes, and plain training where the ball has no size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from qpatchbench.data.base import Splits
from qpatchbench.defenses.at_pgd import FloatPgdAdversarialTraining, PgdAdversarialTraining
from qpatchbench.defenses.base import Batch
from qpatchbench.defenses.dwq import DoubleWinQuant
from qpatchbench.defenses.none import NoDefense
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
from tests.training.conftest import Run, TinyNet, same

Train = Callable[..., Run]


def at_pgd(**fields: Any) -> PgdAdversarialTraining:  # noqa: ANN401
    return PgdAdversarialTraining.model_validate({"name": "at_pgd", **fields})


def at_pgd_float(**fields: Any) -> FloatPgdAdversarialTraining:  # noqa: ANN401
    return FloatPgdAdversarialTraining.model_validate({"name": "at_pgd_float", **fields})


# The attack.


@pytest.mark.parametrize("fields", [{}, {"epsilon": 0.03, "step_size": 0.02, "steps": 4}, {"epsilon": 1.0}])
def test_images_stay_in_the_ball_and_in_range(fields: dict[str, float]) -> None:
    network, defense = Watched(), at_pgd(**fields)
    defense.loss(network, batch(), step())
    for call in network.calls:
        assert float((call.images - batch().images).abs().max()) <= defense.epsilon + 1e-6
        assert float(call.images.min()) >= 0
        assert float(call.images.max()) <= 1
    moved = [
        float((after.images - before.images).abs().max())
        for before, after in zip(network.calls, network.calls[1:], strict=False)
    ]
    assert moved[0] == pytest.approx(defense.step_size, abs=1e-6)
    assert max(moved) <= defense.step_size + 1e-6
    assert float((network.calls[0].images - batch().images).abs().max()) > 0.5 * defense.epsilon, "a random start"


@pytest.mark.numerical
def test_the_loss_rises_along_the_steps() -> None:
    network = Watched()
    at_pgd().loss(network, batch(), step())
    losses = [
        functional.cross_entropy(network.logits(call.images, FOUR), batch().labels, reduction="none").detach()
        for call in network.calls
    ]
    assert len(losses) == 8
    assert all((after > before - 1e-6).all() for before, after in zip(losses, losses[1:], strict=False))
    clean = functional.cross_entropy(network.logits(batch().images, FOUR), batch().labels, reduction="none").detach()
    assert (losses[-1] > clean + 0.01).all()


def test_enough_steps_reach_the_optimum_of_a_linear_network() -> None:
    """With two classes the cross-entropy rises along the sign of w_other - w_label: the answer is a vertex."""
    network, clean = Watched(classes=2), batch()
    labels = clean.labels % 2
    found = at_pgd(steps=20).attacked(network.at(FOUR), clean.images, labels, step())
    uphill = (network.weight.T[1 - labels] - network.weight.T[labels]).view_as(clean.images)
    assert torch.allclose(found, (clean.images + 8 / 255 * uphill.sign()).clamp(0, 1), atol=1e-6)
    assert not found.requires_grad


def prepared(**fields: Any) -> TinyNet:  # noqa: ANN401
    module = TinyNet()
    widths = (FLOAT, EIGHT, FOUR)
    prepare(module, widths, Qat.model_validate({"name": "qat", "bits": widths, **fields}))
    initialize(module, batch().images)
    return module.train()


@pytest.mark.numerical
@pytest.mark.parametrize("bits", [FLOAT, EIGHT, FOUR], ids=str)
def test_it_is_the_attack_of_double_win_quant(bits: Bits) -> None:
    """Written separately there; through real fake quantizers the gradient passes straight through the rounding."""
    torch.manual_seed(0)
    module, clean = prepared().eval(), batch()
    network = Switch(module, module, quantized=True)
    own = at_pgd().attacked(network.at(bits), clean.images, clean.labels, step())
    other = DoubleWinQuant(name="dwq").attacked(network.at(bits), clean, step())
    assert torch.equal(own, other)
    losses = [functional.cross_entropy(network.at(bits)(images), clean.labels) for images in (clean.images, own)]
    assert float(losses[1].detach()) > float(losses[0].detach())


def test_one_step_and_seed_decide_the_attack() -> None:
    clean, before = batch(), torch.get_rng_state()
    made = [
        at_pgd().attacked(Watched().at(FOUR), clean.images, clean.labels, chosen)
        for chosen in (step(1), step(1), step(2), step(1, seed=3))
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[3])
    assert torch.equal(torch.get_rng_state(), before)


# The step.


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_loss_by_hand(share: float) -> None:
    network, clean, defense = Watched(), batch(), at_pgd(adversarial_share=share)
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
    assert network.weight.grad is None, "the attack left a gradient"


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_mode_under_attack_is_a_field(mode: str) -> None:
    network = Watched()
    at_pgd(attack_mode=mode).loss(network, batch(), step())
    assert [call.eval for call in network.calls] == [mode == "eval"] * 7 + [False]
    assert PgdAdversarialTraining(name="at_pgd").attack_mode == "eval"


@pytest.mark.parametrize("scale", ["paper", "ema", "min_max"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_attack_leaves_buffers_alone_in_eval_mode_only(scale: str, mode: str) -> None:
    """In eval mode all that moves is what one pass over the adversarial images in training mode moves."""
    torch.manual_seed(0)
    module = prepared(scale=scale)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    seen: list[torch.Tensor] = []

    def forward(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.detach().clone())
        torch.manual_seed(1)  # dropout
        logits: torch.Tensor = module(images)
        return logits

    at_pgd(attack_mode=mode).loss(Switch(module, forward, quantized=True), batch(), step(bits=(EIGHT,)))
    after = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(start)
    torch.manual_seed(1)
    Switch(module, module, quantized=True).at(EIGHT)(seen[-1])
    assert same(after, module.state_dict()) == (mode == "eval")
    assert int(after["norm.at_bits.8.num_batches_tracked"]) == (1 if mode == "eval" else 8)
    assert int(after["norm.at_bits.4.num_batches_tracked"]) == 0, "another width's statistics moved"
    assert module.training


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 7])
def test_the_estimate_of_passes_is_the_count(share: float, steps: int) -> None:
    network, defense = Watched(), at_pgd(steps=steps, adversarial_share=share)
    defense.loss(network, batch(), step())
    assert defense.passes((FOUR,)) == sum(3 * len(call.images) for call in network.calls) / 12
    assert at_pgd_float(steps=steps, adversarial_share=share).passes((FLOAT,)) == defense.passes((FOUR,))


def test_the_papers_cost() -> None:
    assert at_pgd().passes((FOUR,)) == 8 * QuantizationAwareTraining(name="qat").passes((FOUR,))


def test_a_width_is_attacked_and_trained_alone() -> None:
    widths = (FLOAT, EIGHT, FOUR, TWO)
    assert at_pgd().bit_groups(widths) == tuple((width,) for width in widths)
    assert at_pgd(joint=True).bit_groups(widths) == (widths,)
    for width in widths:
        network = Watched()
        at_pgd().loss(network, batch(), step(bits=(width,)))
        assert {call.bits for call in network.calls} == {width}


def test_joint_training_attacks_one_width_and_trains_all() -> None:
    widths, attacked = (EIGHT, FOUR, TWO), Counter[Bits]()
    for index in range(60):
        network = Watched()
        at_pgd(joint=True, steps=1).loss(network, batch(), step(index, widths))
        trained = [call for call in network.calls if not call.eval]
        assert [call.bits for call in trained] == list(widths)
        assert all(torch.equal(call.images, trained[0].images) for call in trained)
        (width,) = {call.bits for call in network.calls if call.eval}
        attacked[width] += 1
    assert min(attacked[width] for width in widths) > 8
    assert at_pgd(joint=True).passes(widths) == 3 * (3 + 7)


def test_a_batch_too_small_for_its_share_is_an_error() -> None:
    with pytest.raises(TrainingError, match="batch_size of at least 4, of which a share of 0.25 is attacked, found 3"):
        at_pgd(adversarial_share=0.25).loss(Watched(), batch(3), step())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("epsilon", -0.1), ("epsilon", 1.1), ("step_size", 0), ("step_size", 2), ("attack_mode", "both"),
        ("adversarial_share", 1.5), ("adversarial_share", -1), ("size", 6),
    ],
)  # fmt: skip
def test_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        at_pgd(**{field: value})


def test_both_are_in_the_catalogue_and_only_one_trains_quantizers() -> None:
    assert DEFENSES.get("at_pgd") is PgdAdversarialTraining
    assert DEFENSES.get("at_pgd_float") is FloatPgdAdversarialTraining
    assert at_pgd().quantization_aware
    assert not at_pgd_float().quantization_aware
    with pytest.raises(ValidationError, match="joint"):
        at_pgd_float(joint=True)
    assert (at_pgd().epsilon, at_pgd().step_size, at_pgd().steps) == (8 / 255, 2 / 255, 7)


# Training, with the real loop.


@pytest.fixture
def task(quantizer: Qat, settings: TrainingSettings) -> dict[str, Any]:
    chosen = settings.model_copy(update={"epochs": 2})
    return {"quantizer": quantizer, "bits": (FOUR,), "settings": chosen}


@pytest.mark.parametrize("bits", [FLOAT, EIGHT, FOUR], ids=str)
@pytest.mark.parametrize("fields", [{"epsilon": 0}, {"adversarial_share": 0}], ids=str)
def test_without_an_attack_it_is_separate_qat_to_the_bit(
    run: Train, task: dict[str, Any], bits: Bits, fields: dict[str, Any]
) -> None:
    task["bits"] = (bits,)
    plain = run(defense=QuantizationAwareTraining(name="qat", joint=False), **task)
    assert same(run(defense=at_pgd(**fields), **task).state, plain.state)
    assert not same(run(defense=at_pgd(steps=1), **task).state, plain.state)


def test_jointly_without_an_attack_it_is_joint_qat_to_the_bit(run: Train, task: dict[str, Any], quantizer: Qat) -> None:
    task["bits"] = quantizer.bits
    plain = run(defense=QuantizationAwareTraining(name="qat"), **task)
    assert same(run(defense=at_pgd(joint=True, epsilon=0), **task).state, plain.state)
    assert not same(run(defense=at_pgd(joint=True), **task).state, plain.state)


def test_in_float_without_an_attack_it_is_plain_training_to_the_bit(run: Train) -> None:
    plain = run(defense=NoDefense(name="none"))
    assert same(run(defense=at_pgd_float(epsilon=0)).state, plain.state)
    assert not same(run(defense=at_pgd_float()).state, plain.state)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_training_resumes_to_the_bit(run: Train, task: dict[str, Any], mode: str) -> None:
    fields = {**task, "defense": at_pgd(steps=2, attack_mode=mode)}
    whole = run(**fields)
    assert same(run(snapshot=whole.snapshots[1], **fields).state, whole.state)
    assert not same(run(**fields, seed=1).state, whole.state)


@pytest.mark.numerical
def test_mixed_precision_attacks_too(run: Train, task: dict[str, Any]) -> None:
    half = {**task, "settings": task["settings"].model_copy(update={"precision": "bf16-mixed"})}
    losses = [run(defense=at_pgd(), **chosen).snapshots[2].log[0]["losses"] for chosen in (task, half)]
    assert losses[1]["adversarial"] == pytest.approx(losses[0]["adversarial"], rel=0.1)
    assert losses[1] != losses[0]


@pytest.mark.numerical
def test_a_network_trained_with_the_attack_resists_it_better(run: Train, splits: Splits) -> None:
    settings = TrainingSettings(epochs=12, batch_size=24, learning_rate=0.05, schedule="cosine", augmentation="none")
    images = Batch(to_float(splits.train.pixels[:96]), splits.train.labels[:96])
    lost = {}
    for epsilon in (0.0, 0.1):
        module = TinyNet()
        defense = at_pgd_float(epsilon=epsilon, step_size=0.03)
        module.load_state_dict(run(defense=defense, settings=settings).state)
        module.eval()
        attack = at_pgd_float(epsilon=0.1, step_size=0.02, steps=20)
        found = attack.attacked(module, images.images, images.labels, step(10_000))
        lost[epsilon] = float(functional.cross_entropy(module(found), images.labels).detach())
    assert lost[0.1] < 0.9 * lost[0.0]
