"""Any-precision training: gradients by hand, who teaches whom, and plain QAT where nobody teaches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from qpatchbench.defenses.any_precision import AnyPrecision
from qpatchbench.defenses.base import Batch, Observed, Step
from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.quantizers.qat import Qat
from qpatchbench.registry import DEFENSES
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, Bits, Network
from tests.training.conftest import Run, same

Train = Callable[..., Run]
WIDTHS = tuple(map(Bits.parse, (8, 32, 2, 4)))  # in no order
CLASSES, COUNT = 4, 6


class Logits:
    """A network that is its logits: a leaf (B, K) per width, float64."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.values = {
            bits: torch.randn(COUNT, CLASSES, generator=generator, dtype=torch.float64).requires_grad_()
            for bits in WIDTHS
        }
        self.asked: list[Bits] = []

    def at(self, bits: Bits) -> Network:
        """Its leaf."""
        self.asked.append(bits)
        return lambda images: self.values[bits]

    def observed(self, bits: Bits, images: torch.Tensor, layers: tuple[str, ...]) -> Observed:
        """Nothing inside."""
        return Observed(self.at(bits)(images), {})

    def early_layers(self, images: torch.Tensor) -> tuple[str, ...]:
        """None."""
        return ()

    def evaluating(self) -> AbstractContextManager[None]:
        """It has no mode."""
        return nullcontext()


BATCH = Batch(torch.zeros(COUNT, 3, 2, 2), torch.arange(COUNT) % CLASSES)


def defense(**fields: Any) -> AnyPrecision:  # noqa: ANN401
    return AnyPrecision.model_validate({"name": "any_precision", **fields})


def step(*bits: Bits) -> Step:
    return Step(0.0, bits or WIDTHS, torch.Generator())


def softmax(logits: torch.Tensor) -> torch.Tensor:
    exponentials = (logits.detach() - logits.detach().max(dim=1, keepdim=True).values).exp()
    return exponentials / exponentials.sum(dim=1, keepdim=True)


TEACHERS: dict[str, dict[int, int | None]] = {
    "recursive": {32: None, 8: 32, 4: 8, 2: 4},
    "highest": {32: None, 8: 32, 4: 32, 2: 32},
    "none": {32: None, 8: None, 4: None, 2: None},
}


@pytest.mark.parametrize("distillation", TEACHERS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_and_gradients_by_hand(distillation: str, reduction: str) -> None:
    """The gradient of soft cross-entropy is (softmax(student) - softmax(teacher)) / B, and teachers get none."""
    network = Logits()
    losses = defense(distillation=distillation, reduction=reduction).loss(network, BATCH, step())
    assert set(losses) == ({"clean"} if distillation == "none" else {"clean", "distillation"})
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    share = len(WIDTHS) if reduction == "mean" else 1
    expected = {"clean": 0.0, "distillation": 0.0}
    for bits, logits in network.values.items():
        teacher = TEACHERS[distillation][bits.weight]
        labels = torch.eye(CLASSES, dtype=torch.float64)[BATCH.labels]
        target = labels if teacher is None else softmax(network.values[Bits.parse(teacher)])
        own = -(target * softmax(logits).log()).sum(dim=1).mean() / share
        expected["clean" if teacher is None else "distillation"] += float(own)
        assert logits.grad is not None
        assert torch.allclose(logits.grad, (softmax(logits) - target) / COUNT / share, atol=1e-14), f"at {bits} bits"
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(expected[name], rel=1e-12)


def test_widths_run_from_the_highest_to_the_lowest() -> None:
    network = Logits()
    defense().loss(network, BATCH, step())
    assert [bits.weight for bits in network.asked] == [32, 8, 4, 2]


def test_one_width_has_no_teacher() -> None:
    network = Logits()
    losses = defense().loss(network, BATCH, step(Bits.parse(2)))
    assert set(losses) == {"clean"}
    torch.autograd.backward(losses["clean"])
    labels = torch.eye(CLASSES, dtype=torch.float64)[BATCH.labels]
    gradient = network.values[Bits.parse(2)].grad
    assert gradient is not None
    assert torch.allclose(gradient, (softmax(network.values[Bits.parse(2)]) - labels) / COUNT, atol=1e-14)


def test_without_distillation_it_is_joint_qat_to_the_bit(run: Train, quantizer: Qat) -> None:
    task = {"quantizer": quantizer, "bits": quantizer.bits}
    plain = run(defense=QuantizationAwareTraining(name="qat"), **task)
    assert same(run(defense=defense(distillation="none"), **task).state, plain.state)
    assert not same(run(defense=defense(), **task).state, plain.state)
    assert not same(run(defense=defense(distillation="none", reduction="sum"), **task).state, plain.state)


def test_the_sum_is_the_mean_at_a_higher_rate(run: Train, quantizer: Qat, settings: TrainingSettings) -> None:
    """Three widths, so three times; without decay, which is multiplied by the rate too."""
    task = {"quantizer": quantizer, "bits": quantizer.bits}
    rates = {"mean": 0.03, "sum": 0.01}
    states = [
        run(
            defense=defense(reduction=reduction),
            settings=settings.model_copy(update={"epochs": 1, "weight_decay": 0.0, "learning_rate": rate}),
            **task,
        ).state
        for reduction, rate in rates.items()
    ]
    for name, value in states[0].items():
        if value.is_floating_point():
            assert torch.allclose(value, states[1][name], rtol=1e-2, atol=1e-4), name


@pytest.mark.numerical
def test_training_resumes_to_the_bit(run: Train, quantizer: Qat) -> None:
    task = {"defense": defense(), "quantizer": quantizer, "bits": quantizer.bits}
    whole = run(**task)
    assert same(run(snapshot=whole.snapshots[2], **task).state, whole.state)
    losses = [whole.snapshots[epoch].log[0]["losses"] for epoch in (1, 4)]
    assert sum(losses[1].values()) < sum(losses[0].values())


def test_lower_widths_learn_from_higher_ones_alone(run: Train, quantizer: Qat, settings: TrainingSettings) -> None:
    """Labels never reach them, and yet their own BatchNorm and scales move."""
    task = {"defense": defense(), "quantizer": quantizer, "bits": quantizer.bits}
    start = run(settings=settings.model_copy(update={"epochs": 0}), **task).state
    end = run(**task).state
    own = [name for name in end if name.endswith((".at_bits.4.weight", ".scale_4"))]
    assert len(own) == 6
    assert all(not torch.equal(end[name], start[name]) for name in own)


@pytest.mark.parametrize(("field", "value"), [("distillation", "lowest"), ("reduction", "max"), ("temperature", 2)])
def test_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        defense(**{field: value})


def test_it_is_in_the_catalogue() -> None:
    assert DEFENSES.get("any_precision") is AnyPrecision
    assert defense().passes((FLOAT, *WIDTHS[2:])) == 9
