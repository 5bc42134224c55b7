"""Double-Win Quant: one width per step, for attack and update alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from qpatchbench.defenses.base import Batch, Observed, Step
from qpatchbench.defenses.dwq import DoubleWinQuant
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import initialize, prepare
from qpatchbench.training.loop import TrainingTask, train
from qpatchbench.training.snapshot import Snapshot
from qpatchbench.training.switching import Switch
from qpatchbench.types import FLOAT, Bits
from tests.training.conftest import CLASSES, CPU, SIDE, Run, TinyNet, same

Train = Callable[..., Run]
EIGHT, FOUR, TWO = map(Bits.parse, (8, 4, 2))
WIDTHS = (FLOAT, EIGHT, FOUR, TWO)


class Spy:
    """Logits linear in the images, and a record of what was asked."""

    def __init__(self) -> None:
        draws = torch.Generator().manual_seed(1)
        self.weight = 0.1 * torch.randn(3 * SIDE * SIDE, CLASSES, generator=draws)  # no softmax saturates
        self.asked: list[Bits] = []
        self.seen: list[tuple[Bits, torch.Tensor, bool]] = []
        self.eval = False

    def at(self, bits: Bits) -> Callable[[torch.Tensor], torch.Tensor]:
        self.asked.append(bits)

        def forward(images: torch.Tensor) -> torch.Tensor:
            self.seen.append((bits, images.detach().clone(), self.eval))
            return images.flatten(1) @ self.weight

        return forward

    def observed(self, bits: Bits, images: torch.Tensor, layers: tuple[str, ...]) -> Observed:
        raise AssertionError("Double-Win Quant looks at no layer")

    def early_layers(self, images: torch.Tensor) -> tuple[str, ...]:
        return ()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        self.eval = True
        yield
        self.eval = False


def dwq(**fields: Any) -> DoubleWinQuant:  # noqa: ANN401
    return DoubleWinQuant(name="dwq", **fields)


def step(index: int = 0, bits: tuple[Bits, ...] = WIDTHS, seed: int = 0) -> Step:
    return Step(0.0, bits, torch.Generator(), index, seed)


@pytest.fixture
def batch() -> Batch:
    pixels = torch.rand(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return Batch((pixels * 1.4 - 0.2).clamp(0, 1), torch.tensor([0, 1, 2, 3, 0, 1]))  # the ends of [0, 1] occur


def test_the_width_of_the_attack_is_the_width_of_the_update(batch: Batch) -> None:
    for index in range(20):
        spy = Spy()
        dwq().loss(spy, batch, step(index))
        assert len(spy.seen) == 8, "seven attack steps and the update"
        assert {bits for bits, _, _ in spy.seen} == {dwq().drawn_bits(step(index))} == set(spy.asked)


def test_widths_are_drawn_uniformly_from_the_active_ones() -> None:
    counts = Counter(dwq().drawn_bits(step(index)) for index in range(2000))
    assert set(counts) == set(WIDTHS)
    expected = 2000 / len(WIDTHS)
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    assert statistic < 16.27, "chi-square, 3 degrees of freedom, one in a thousand"
    fewer = Counter(dwq().drawn_bits(step(index, (FOUR, TWO))) for index in range(50))
    assert set(fewer) == {FOUR, TWO}
    assert dwq().drawn_bits(step(3)) == dwq().drawn_bits(step(3))
    draws = [[dwq().drawn_bits(step(index, seed=seed)) for index in range(30)] for seed in (0, 1)]
    assert draws[0] != draws[1]


@pytest.mark.parametrize("fields", [{}, {"epsilon": 0.03, "step_size": 0.02, "steps": 4}])
def test_images_stay_in_the_ball_and_in_range(batch: Batch, fields: dict[str, float]) -> None:
    spy, defense = Spy(), dwq(**fields)
    defense.loss(spy, batch, step())
    for _, images, _ in spy.seen:
        assert float((images - batch.images).abs().max()) <= defense.epsilon + 1e-6
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1
    moved = [float((after[1] - before[1]).abs().max()) for before, after in zip(spy.seen, spy.seen[1:], strict=False)]
    assert moved[0] == pytest.approx(defense.step_size, abs=1e-6)
    assert max(moved) <= defense.step_size + 1e-6
    assert float((spy.seen[0][1] - batch.images).abs().max()) > 0.5 * defense.epsilon, "a random start"


@pytest.mark.numerical
def test_enough_steps_reach_the_optimum_of_a_linear_network(batch: Batch) -> None:
    """With two classes the cross-entropy rises along the sign of w_other - w_label: the answer is a vertex."""
    spy = Spy()
    spy.weight[:, 2:] = 0
    spy.weight = spy.weight[:, :2]
    labels = batch.labels % 2
    adversarial = dwq(steps=20).attacked(spy.at(FOUR), Batch(batch.images, labels), step())
    uphill = (spy.weight.T[1 - labels] - spy.weight.T[labels]).view_as(batch.images)
    best = (batch.images + 8 / 255 * uphill.sign()).clamp(0, 1)
    assert torch.allclose(adversarial, best, atol=1e-6)
    assert not adversarial.requires_grad


@pytest.mark.numerical
def test_the_loss_is_on_adversarial_images_only(batch: Batch) -> None:
    spy = Spy()
    losses = dwq().loss(spy, batch, step())
    assert list(losses) == ["adversarial"]
    _, last, _ = spy.seen[-1]
    assert float(losses["adversarial"]) == pytest.approx(
        float(functional.cross_entropy(last.flatten(1) @ spy.weight, batch.labels))
    )
    assert float(losses["adversarial"]) > float(functional.cross_entropy(spy.at(TWO)(batch.images), batch.labels))


def test_without_the_attack_it_is_random_precision_training(batch: Batch) -> None:
    spy, defense = Spy(), dwq(adversarial=False)
    losses = defense.loss(spy, batch, step(5))
    assert list(losses) == ["clean"]
    ((bits, images, _),) = spy.seen
    assert torch.equal(images, batch.images)
    assert bits == defense.drawn_bits(step(5)) == dwq().drawn_bits(step(5)), (
        "the attack must not change the draws of widths"
    )
    assert defense.passes(WIDTHS) == 3.0
    assert dwq().passes(WIDTHS) == 8 * defense.passes(WIDTHS)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_mode_under_attack_is_a_field(batch: Batch, mode: str) -> None:
    spy = Spy()
    dwq(attack_mode=mode).loss(spy, batch, step())
    assert [evaluating for _, _, evaluating in spy.seen] == [mode == "eval"] * 7 + [False]


def test_one_step_and_seed_decide_the_attack(batch: Batch) -> None:
    images = [dwq().attacked(Spy().at(FOUR), batch, chosen) for chosen in (step(1), step(1), step(2), step(1, seed=3))]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[3])
    before = torch.get_rng_state()
    dwq().loss(Spy(), batch, step())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_float_member_shares_the_weights_or_does_not() -> None:
    assert dwq().bit_groups(WIDTHS) == (WIDTHS,)
    assert dwq(float_member=False).bit_groups(WIDTHS) == ((EIGHT, FOUR, TWO), (FLOAT,))
    assert dwq(float_member=False).bit_groups((FOUR, TWO)) == ((FOUR, TWO),)
    assert dwq(float_member=False).bit_groups((FLOAT,)) == ((FLOAT,),)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("scale", ["paper", "min_max"])
def test_batch_norm_of_other_widths_is_untouched(batch: Batch, mode: str, scale: Any) -> None:  # noqa: ANN401
    module = TinyNet()
    prepare(module, WIDTHS, Qat(name="qat", bits=WIDTHS, scale=scale))
    initialize(module, batch.images)
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    defense = dwq(attack_mode=mode)
    losses = defense.loss(Switch(module, module, quantized=True), batch, step(1))
    torch.autograd.backward(losses["adversarial"])
    width, after = str(defense.drawn_bits(step(1))), module.state_dict()
    changed = {name for name in before if ".at_bits." in name and not torch.equal(before[name], after[name])}
    assert changed == {
        f"norm.at_bits.{width}.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    updates = int(
        after[f"norm.at_bits.{width}.num_batches_tracked"] - before[f"norm.at_bits.{width}.num_batches_tracked"]
    )
    assert updates == (8 if mode == "train" else 1)
    with_gradient = {
        name for name, value in module.named_parameters() if ".at_bits." in name and value.grad is not None
    }
    assert with_gradient == {f"norm.at_bits.{width}.{name}" for name in ("weight", "bias")}


def test_it_learns_reproducibly_and_resumes_to_the_bit(run: Train, quantizer: Qat) -> None:
    fields = {"defense": dwq(steps=2), "quantizer": quantizer, "bits": quantizer.bits}
    whole = run(**fields)
    assert same(whole.state, run(**fields).state)
    rest = run(snapshot=whole.snapshots[2], **fields)
    assert same(rest.state, whole.state)
    assert not same(whole.state, run(**fields, seed=1).state)


@pytest.mark.numerical
def test_training_against_the_attack_resists_it_better(splits: Any, settings: Any) -> None:  # noqa: ANN401
    """The network trained with the attack must lose less to it than the one trained without."""
    bits = (EIGHT, FOUR)
    quantizer = Qat(name="qat", bits=bits)
    chosen = settings.model_copy(update={"epochs": 12})
    worse = {}
    for adversarial in (True, False):
        defense = dwq(adversarial=adversarial, epsilon=0.1, step_size=0.03)
        task = TrainingTask(TinyNet, defense, quantizer, bits, chosen, None, 0)
        kept: list[Snapshot] = []
        state = train(task, splits.train, splits.calibration, device=CPU, snapshot=None, save=kept.append)
        module = TinyNet()
        prepare(module, bits, quantizer)
        module.load_state_dict(state)
        module.eval()
        network = Switch(module, module, quantized=True)
        images = Batch(splits.train.pixels[:64].float() / 255, splits.train.labels[:64])
        attack = dwq(epsilon=0.1, step_size=0.03)
        with network.evaluating():
            adversarial_images = attack.attacked(network.at(EIGHT), images, step())
            loss = functional.cross_entropy(network.at(EIGHT)(adversarial_images), images.labels)
        worse[adversarial] = float(loss.detach())
    assert worse[True] < 0.9 * worse[False]


def test_fields_out_of_range_are_refused() -> None:
    for fields in ({"steps": 0}, {"epsilon": 0.0}, {"step_size": 1.5}, {"attack_mode": "both"}, {"widths": (4,)}):
        with pytest.raises(ValidationError):
            dwq(**fields)
