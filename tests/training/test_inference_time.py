"""Times of deployed networks beside the reference's, by a clock that the networks wind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from qpatchbench.data.base import Splits
from qpatchbench.defenses.none import NoDefense
from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.errors import UnknownNameError
from qpatchbench.quantizers.qat import Qat
from qpatchbench.training.inference_time import PASSES, Inference, measure_inference
from qpatchbench.training.loop import TrainingTask
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, Bits
from tests.training.conftest import CPU, TinyNet

BITS = tuple(Bits.parse(bits) for bits in (32, 8, 4))


class Clock:
    """Moves on only when it is wound."""

    now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


class Ticking(TinyNet):
    """Every forward pass takes `seconds` of the clock's time, and notes whether the network was in training mode."""

    def __init__(self, clock: Clock, seconds: float, training: list[bool]) -> None:
        super().__init__()
        self.clock, self.seconds, self.modes = clock, seconds, training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As TinyNet."""
        self.clock.now += self.seconds
        self.modes.append(self.training)
        return super().forward(images)


def task(build: Callable[[], torch.nn.Module], bits: tuple[Bits, ...] = (FLOAT,)) -> TrainingTask:
    settings = TrainingSettings(batch_size=16, learning_rate=0.05)
    plain = TrainingTask(build, NoDefense(name="none"), None, (FLOAT,), settings, None, seed=0)
    if bits == (FLOAT,):
        return plain
    return replace(
        plain, defense=QuantizationAwareTraining(name="qat"), quantizer=Qat(name="qat", bits=bits), bits=bits
    )


def measured(splits: Splits, tasks: dict[str, TrainingTask], clock: Clock, repeats: int = 3) -> dict[str, Inference]:
    return measure_inference(tasks, "first", splits.train, splits.calibration, device=CPU, repeats=repeats, clock=clock)


def test_a_network_that_takes_three_times_as_long(splits: Splits) -> None:
    clock, modes = Clock(), list[bool]()
    tasks = {
        "first": task(lambda: Ticking(clock, 2.0, modes)),
        "other": task(lambda: Ticking(clock, 6.0, modes)),
    }
    found = measured(splits, tasks, clock)
    assert found == {"first": Inference("32", 2.0, 1.0, 1.0, 1.0), "other": Inference("32", 6.0, 3.0, 3.0, 3.0)}
    assert not any(modes[-2 * 4 * PASSES :]), "deployed networks are in evaluation mode"


def test_the_reference_is_timed_at_the_width_of_each(splits: Splits) -> None:
    """One width of its own for a network of one width; the narrowest that both have for the others."""
    clock, modes = Clock(), list[bool]()
    tasks = {
        "first": task(lambda: Ticking(clock, 1.0, modes), BITS),
        "float": task(lambda: Ticking(clock, 1.5, modes)),
        "eight": task(lambda: Ticking(clock, 2.0, modes), BITS[:2]),
        "two": task(lambda: Ticking(clock, 2.0, modes), (Bits.parse(2),)),
    }
    found = measured(splits, tasks, clock)
    assert {name: each.inference_bits for name, each in found.items()} == {"first": "4", "float": "32", "eight": "8"}
    assert [each.relative_inference for each in found.values()] == [1.0, 1.5, 2.0]


def test_the_real_clock_finds_a_network_as_fast_as_itself(splits: Splits) -> None:
    """A noisy machine leaves wide bounds; what is tested is that they are those of ratios near one."""
    found = measure_inference(
        {"first": task(TinyNet, BITS), "same": task(TinyNet, BITS)},
        "first",
        splits.train,
        splits.calibration,
        device=CPU,
    )
    assert 0.2 < found["same"].relative_inference < 5
    assert 0 < found["same"].relative_inference_low <= found["same"].relative_inference_high


def test_the_reference_has_to_be_there(splits: Splits) -> None:
    with pytest.raises(UnknownNameError, match="reference of costs"):
        measured(splits, {"frist": task(TinyNet)}, Clock())
