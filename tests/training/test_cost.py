"""Costs of training: time by a clock that the network winds, memory by hand, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import PrivateAttr
from torch.nn import functional

from qpatchbench.data.base import Splits
from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.defenses.none import NoDefense
from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.errors import TrainingError, UnknownNameError
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.randomness import derive_generator, derive_seed
from qpatchbench.quantizers.qat import Qat
from qpatchbench.training.cost import Cost, measure_costs
from qpatchbench.training.loop import TrainingTask, begun_learner, take_step, train
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.training.snapshot import Snapshot
from qpatchbench.types import FLOAT, Bits, Losses, Patch, Untargeted
from tests.training.conftest import CLASSES, CPU, TinyNet, same

BATCH = 24
FLOATS = 1_000_000


class Clock:
    """Moves on only when it is wound."""

    def __init__(self) -> None:
        self.now, self.reads = 0.0, 0

    def __call__(self) -> float:
        """Seconds."""
        self.reads += 1
        return self.now


class Ticking(TinyNet):
    """Every forward pass takes `seconds(clock)` of the clock's time."""

    def __init__(self, clock: Clock, seconds: Callable[[Clock], float] = lambda clock: 1.0) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As TinyNet."""
        self.clock.now += self.seconds(self.clock)
        return super().forward(images)


class Repeating(Defense):
    """Ordinary training with `work` forward passes for one; notes its losses and the steps it is asked for."""

    work: int = 1
    _losses: list[float] = PrivateAttr(default_factory=list)
    _steps: list[Step] = PrivateAttr(default_factory=list)
    _batches: list[Batch] = PrivateAttr(default_factory=list)
    _updates: list[int] = PrivateAttr(default_factory=list)

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """One term."""
        terms = [functional.cross_entropy(network.at(FLOAT)(batch.images), batch.labels) for _ in range(self.work)]
        loss = torch.stack(terms).mean()
        self._losses.append(float(loss.detach()))
        self._steps.append(step)
        self._batches.append(batch)
        return {"clean": loss}

    def after_backward(self, parameters: list[torch.nn.Parameter], step: Step) -> None:
        """Notes that there are gradients."""
        assert all(parameter.grad is not None for parameter in parameters)
        self._updates.append(step.index)


class Holding(Defense):
    """Keeps `graphs` tensors of a million floats until the backward pass, twice as many on every second step.

    The product of a number and a constant keeps the constant for the number's gradient; its sum keeps nothing.
    """

    graphs: int
    growing: bool = False

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Cross-entropy, and nothing but memory."""
        logits = network.at(FLOAT)(batch.images)
        count = self.graphs * (1 + step.index % 2 if self.growing else 1)
        held = [(logits.mean() * torch.zeros(FLOATS)).sum() for _ in range(count)]
        return {"clean": functional.cross_entropy(logits, batch.labels) + sum(held)}


class Joining(Repeating):
    """A curriculum: the lowest width joins in the very last step."""

    def active_bits(self, epoch_fraction: float, bits: tuple[Bits, ...]) -> tuple[Bits, ...]:
        """All at the end."""
        return bits if epoch_fraction >= 1 else bits[:-1]


def task(defense: Defense, build: Callable[[], torch.nn.Module] = TinyNet, **fields: Any) -> TrainingTask:  # noqa: ANN401 (fields of a dataclass)
    settings = TrainingSettings(batch_size=BATCH, learning_rate=0.05)
    return replace(TrainingTask(build, defense, None, (FLOAT,), settings, None, seed=0), **fields)


@pytest.fixture
def measure(splits: Splits) -> Callable[..., dict[str, Cost]]:
    def measured(tasks: Mapping[str, TrainingTask], reference: str, **options: Any) -> dict[str, Cost]:  # noqa: ANN401
        options = {"steps": 1, "repeats": 1, "device": CPU, **options}
        return measure_costs(tasks, reference, splits.train, splits.calibration, **options)

    return measured


Measure = Callable[..., dict[str, Cost]]


def repeating(work: int = 1) -> Repeating:
    return Repeating(name="repeating", work=work)


def test_time_by_a_clock_that_only_the_network_moves(measure: Measure) -> None:
    clock = Clock()
    tasks = {str(work): task(repeating(work), lambda: Ticking(clock)) for work in (1, 2, 5)}
    costs = measure(tasks, "2", steps=2, repeats=3, clock=clock)
    assert list(costs) == ["1", "2", "5"]
    for work, cost in zip((1, 2, 5), costs.values(), strict=True):
        assert cost.step_seconds == cost.step_seconds_low == cost.step_seconds_high == work
        assert cost.relative_time == cost.relative_time_low == cost.relative_time_high == work / 2
        assert cost.images_per_second == BATCH / work


def test_more_work_costs_more_by_the_real_clock(measure: Measure) -> None:
    """Eight times the passes; what a step does besides them, and a noisy machine, leave wide bounds."""
    costs = measure({"one": task(repeating(1)), "eight": task(repeating(8))}, "one", steps=2, repeats=5)
    assert 1.5 < costs["eight"].relative_time < 16
    for cost in costs.values():
        assert 0 < cost.step_seconds_low <= cost.step_seconds <= cost.step_seconds_high
        assert cost.images_per_second == pytest.approx(BATCH / cost.step_seconds)


def test_a_machine_that_slows_down_hurts_all_alike(measure: Measure) -> None:
    """Ratios are those of a round, so that they are exact although rounds take 1 to 100 times as long."""
    pace = [3.0, 1.0, 100.0, 2.0, 4.0]
    clock = Clock()

    def seconds(clock: Clock) -> float:
        return pace[min((clock.reads - 1) // 4, 4)] if clock.reads else 50.0

    tasks = {str(work): task(repeating(work), lambda: Ticking(clock, seconds)) for work in (1, 3)}
    costs = measure(tasks, "1", steps=2, repeats=5, clock=clock)
    three = costs["3"]
    assert three.relative_time_low == three.relative_time == three.relative_time_high == 3
    one = costs["1"]
    assert (one.step_seconds_low, one.step_seconds, one.step_seconds_high) == (2, 3, 4), "quartiles of 1, 2, 3, 4, 100"


def test_one_disturbed_round_does_not_move_the_medians(measure: Measure) -> None:
    clock = Clock()

    def seconds(clock: Clock) -> float:
        disturbed = 4 * 2 < clock.reads <= 4 * 2 + 2  # the first task in the third round
        return 1000.0 if disturbed else 1.0

    tasks = {str(work): task(repeating(work), lambda: Ticking(clock, seconds)) for work in (1, 3)}
    costs = measure(tasks, "1", repeats=5, clock=clock)
    assert [cost.relative_time for cost in costs.values()] == [1, 3]
    assert [cost.step_seconds for cost in costs.values()] == [1, 3]


def test_quartiles_of_ratios_within_rounds(measure: Measure) -> None:
    """The other task takes 1, 5, 2, 4 and 3 times as long as the reference, which itself gets slower and slower."""
    clock = Clock()
    reference, factors = [1.0, 10.0, 100.0, 1000.0, 10000.0], [1.0, 5.0, 2.0, 4.0, 3.0]

    def seconds(clock: Clock) -> float:
        turn, other = divmod(max(clock.reads - 1, 0) // 2, 2)
        place = min(turn, 4)
        return reference[place] * (factors[place] if other else 1)

    tasks = {name: task(repeating(), lambda: Ticking(clock, seconds)) for name in ("reference", "other")}
    other = measure(tasks, "reference", repeats=5, clock=clock)["other"]
    assert (other.relative_time_low, other.relative_time, other.relative_time_high) == (2, 3, 4)


def test_tasks_take_turns_after_warming_up(measure: Measure) -> None:
    order: list[str] = []

    class Naming(NoDefense):
        def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
            order.append(f"{self.name}{step.index}")
            return super().loss(network, batch, step)

    measure({name: task(Naming(name=name)) for name in "ABC"}, "B", steps=2, repeats=2)
    rounds = ["A0", "A1", "B0", "B1", "C0", "C1"], ["A2", "A3", "B2", "B3", "C2", "C3"]
    last = ["A4", "A5", "B4", "B5", "C4", "C5"], ["A6", "A7", "B6", "B7", "C6", "C7"]
    assert order == [name for turn in (*rounds, *last) for name in turn], "warm-up, two rounds, memory"


def test_a_single_round_has_no_spread(measure: Measure) -> None:
    (cost,) = measure({"only": task(repeating())}, "only").values()
    assert cost.step_seconds_low == cost.step_seconds == cost.step_seconds_high > 0


def test_the_reference_is_exactly_one(measure: Measure) -> None:
    costs = measure({"first": task(repeating(3)), "second": task(repeating(1))}, "first", repeats=3)
    assert costs["first"].relative_time == 1.0
    assert costs["first"].relative_memory == 1.0
    assert costs["second"].relative_time > 0
    assert costs["second"].relative_memory == costs["second"].peak_bytes / costs["first"].peak_bytes < 1


def test_peak_memory_by_hand(measure: Measure) -> None:
    """Of n graphs: n constants that are kept, and one product, or gradient of a constant's size, at a time."""
    counts = (0, 2, 4, 8)
    costs = measure({str(graphs): task(Holding(name="holding", graphs=graphs)) for graphs in counts}, "2")
    base = costs["0"].peak_bytes
    assert 0 < base < 0.05 * 4 * FLOATS * 3, "the network itself must not blur the comparison"
    for graphs in counts[1:]:
        assert costs[str(graphs)].peak_bytes == pytest.approx(4 * FLOATS * (graphs + 1), rel=0.05)
    assert costs["8"].relative_memory == pytest.approx(9 / 3, rel=0.05)


def test_peak_memory_counts_what_is_alive_at_once_and_not_what_is_allocated_in_all(measure: Measure) -> None:
    class Passing(Holding):
        """As many tensors, but one after the other."""

        def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
            held = sum(float(torch.zeros(FLOATS).sum()) for _ in range(self.graphs))
            return {"clean": functional.cross_entropy(network.at(FLOAT)(batch.images), batch.labels) + held}

    costs = measure({"passing": task(Passing(name="passing", graphs=8))}, "passing")
    assert costs["passing"].peak_bytes == pytest.approx(4 * FLOATS, rel=0.05)


def test_peak_memory_includes_gradients_and_leaves_out_weights_and_momentum(measure: Measure) -> None:
    class Wide(torch.nn.Module):
        """A parameter of a million floats whose gradient is all that is worth mentioning."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(FLOATS))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :CLASSES] + self.weight[:CLASSES]

    settings = TrainingSettings(batch_size=BATCH, weight_decay=0.0, momentum=0.9)
    costs = measure({"wide": task(repeating(), Wide, settings=settings)}, "wide")
    assert costs["wide"].peak_bytes == pytest.approx(4 * FLOATS, rel=0.05)


def test_peak_memory_is_that_of_the_largest_step(measure: Measure) -> None:
    """After one round of warming up and one timed, the even and the odd of two steps are looked at."""
    tasks = {"holding": task(Holding(name="holding", graphs=2, growing=True))}
    assert measure(tasks, "holding", steps=2)["holding"].peak_bytes == pytest.approx(4 * FLOATS * 5, rel=0.05)


def test_more_widths_at_once_need_more_memory(measure: Measure, quantizer: Qat) -> None:
    defense = QuantizationAwareTraining(name="qat")
    tasks = {
        str(len(bits)): task(defense, quantizer=quantizer, bits=bits)
        for bits in (quantizer.bits[-1:], quantizer.bits[-2:], quantizer.bits)
    }
    costs = measure(tasks, "1")
    assert costs["1"].relative_memory == 1 < costs["2"].relative_memory - 0.2
    assert costs["2"].relative_memory < costs["3"].relative_memory
    assert [cost.active_bits for cost in costs.values()] == ["4", "8 4", "32 8 4"]


def test_a_curriculum_is_measured_at_its_end(measure: Measure) -> None:
    bits = (FLOAT, Bits.parse(8), Bits.parse("w4a8"))
    defense = Joining(name="joining")
    costs = measure({"joining": task(defense, bits=bits)}, "joining")
    assert costs["joining"].active_bits == "32 8 w4a8"
    assert {step.epoch_fraction for step in defense._steps} == {1.0}
    assert {step.bits for step in defense._steps} == {bits}


def test_every_task_is_asked_for_the_same_steps(measure: Measure) -> None:
    """What a defense draws, for example its bit-width, it draws alike beside every other."""
    patch = Patch(torch.rand(2, 3, 2, 2), torch.ones(2, 1, 2, 2), (Untargeted(), Untargeted()))
    first, second = repeating(), repeating()
    measure({"first": task(first, pool=(patch,), seed=3), "second": task(second, seed=3)}, "first", steps=2, repeats=2)
    assert [step.index for step in first._steps] == list(range(8))
    assert {len(step.pool) for step in first._steps} == {1}
    assert {len(step.pool) for step in second._steps} == {0}
    for one, other in zip(first._steps, second._steps, strict=True):
        assert one.seed == other.seed == 3
        assert torch.equal(torch.rand(3, generator=one.draws("width")), torch.rand(3, generator=other.draws("width")))
    for mine, theirs in zip(first._batches, second._batches, strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.labels, theirs.labels)


@pytest.mark.numerical
def test_every_step_is_a_whole_one(measure: Measure, splits: Splits) -> None:
    """Augmented images of the training set in their order, gradients, and an update after which the loss is another."""
    defense = repeating()
    settings = TrainingSettings(batch_size=BATCH, learning_rate=0.05, schedule="constant")
    measure({"only": task(defense, settings=settings)}, "only", steps=4, repeats=3)
    assert defense._updates == list(range(20))
    assert len(set(defense._losses)) == 20
    assert min(defense._losses[-4:]) < defense._losses[0], "nothing is learned"
    plain = to_float(splits.train.pixels)
    for index, batch in enumerate(defense._batches):
        begin = index % 4 * BATCH
        assert torch.equal(batch.labels, splits.train.labels[begin : begin + BATCH])
        assert not torch.equal(batch.images, plain[begin : begin + BATCH])


def test_a_network_built_for_evaluation_is_measured_in_training(measure: Measure) -> None:
    """Dropout and BatchNorm statistics are part of a step."""
    modes: list[bool] = []

    class Looking(TinyNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            modes.append(self.training and self.norm.training and self.drop.training)
            return super().forward(images)

    measure({"only": task(repeating(), lambda: Looking().eval())}, "only")
    assert modes == [True] * 3


def test_fewer_images_than_a_batch_are_counted_as_they_are(splits: Splits) -> None:
    clock, defense = Clock(), repeating()
    few = splits.train[:10]
    costs = measure_costs(
        {"only": task(defense, lambda: Ticking(clock))}, "only", few, splits.calibration, device=CPU, clock=clock
    )
    assert costs["only"].images_per_second == 10
    assert {len(batch.labels) for batch in defense._batches} == {10}


@pytest.mark.numerical
def test_steps_by_hand_train_as_the_loop_does(splits: Splits, quantizer: Qat) -> None:
    """`take_step` is what is measured; one after the other it must be the training, bit for bit."""
    settings = TrainingSettings(
        epochs=1, batch_size=BATCH, learning_rate=0.05, gradient_clip=0.5, schedule="cosine", nesterov=True
    )
    defense = QuantizationAwareTraining(name="qat")
    chosen = task(defense, quantizer=quantizer, bits=quantizer.bits, settings=settings)
    kept: list[Snapshot] = []
    state = train(chosen, splits.train, splits.calibration, device=CPU, snapshot=None, save=kept.append)
    learner = begun_learner(chosen, splits.train, splits.calibration, CPU)
    assert learner.batches == 4
    learner.module.train()
    draws = derive_generator(0, "training", 0)
    order = torch.randperm(len(splits.train), generator=draws)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(0, "dropout", 0))
        losses = [
            take_step(learner, order[first : first + BATCH], Step(index / 4, quantizer.bits, draws, index))
            for index, first in enumerate(range(0, 4 * BATCH, BATCH))
        ]
    assert kept[-1].log[0]["losses"] == {"clean": sum(float(terms["clean"]) for terms in losses) / 4}
    assert same(learner.module.state_dict(), state)


def test_a_task_learns_the_same_alone_and_in_company(measure: Measure) -> None:
    """Neither weights nor draws of dropout are shared, also where tasks start from one state dict."""
    initial = {name: tensor.clone() for name, tensor in TinyNet().state_dict().items()}
    given = {name: tensor.clone() for name, tensor in initial.items()}
    alone, first, other = repeating(), repeating(), repeating(2)
    measure({"alone": task(alone, initial=initial)}, "alone", repeats=3)
    measure({"other": task(other, initial=initial), "first": task(first, initial=initial)}, "other", repeats=3)
    assert alone._losses == first._losses
    assert len(set(first._losses)) == 5, "losses that never change prove nothing"
    assert first._losses != other._losses
    assert same(initial, given), "the state that was given has been trained"


def test_global_state_is_left_alone(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    before, legacy = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    measure({"only": task(repeating())}, "only")
    assert torch.equal(torch.get_rng_state(), before)
    assert repr(np.random.get_state(legacy=False)) == repr(legacy)  # noqa: NPY002
    assert "KINETO_LOG_LEVEL" not in os.environ
    monkeypatch.setenv("KINETO_LOG_LEVEL", "4")
    measure({"only": task(repeating())}, "only")
    assert os.environ["KINETO_LOG_LEVEL"] == "4"


def test_global_state_is_left_alone_after_an_error(measure: Measure) -> None:
    class Broken(NoDefense):
        def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
            losses = super().loss(network, batch, step)
            return {name: term * float("nan") for name, term in losses.items()}

    before = torch.get_rng_state()
    with pytest.raises(TrainingError, match=r"'clean' became nan in epoch 1, step 1"):
        measure({"broken": task(Broken(name="broken"))}, "broken")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_training_images_stay_as_they_are(measure: Measure, splits: Splits) -> None:
    before = splits.train.pixels.clone()
    measure({"only": task(repeating())}, "only")
    assert torch.equal(splits.train.pixels, before)


def test_an_unknown_reference_is_named_with_those_there_are(measure: Measure) -> None:
    tasks = {"qat": task(repeating()), "triqdef": task(repeating())}
    with pytest.raises(UnknownNameError) as raised:
        measure(tasks, "qta")
    assert str(raised.value) == "unknown reference of costs 'qta'. Did you mean: qat? Available: qat, triqdef."
    with pytest.raises(UnknownNameError, match="None is available"):
        measure({}, "qat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "expected at least 1 step and 1 repeat, found 0 and 1"),
        ({"repeats": 0}, "expected at least 1 step and 1 repeat, found 1 and 0"),
        (
            {"device": torch.device("meta")},
            "expected a device whose memory can be measured, such as cpu or cuda, found meta",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(measure: Measure, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure({"only": task(repeating())}, "only", **options)


def test_a_cost_is_a_row_of_a_table(measure: Measure) -> None:
    (cost,) = measure({"only": task(repeating())}, "only").values()
    row = asdict(cost)
    assert {name: type(value) for name, value in row.items()} == {
        "step_seconds": float, "step_seconds_low": float, "step_seconds_high": float, "images_per_second": float,
        "peak_bytes": int, "relative_time": float, "relative_time_low": float, "relative_time_high": float,
        "relative_memory": float, "active_bits": str,
    }  # fmt: skip
