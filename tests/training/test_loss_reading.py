"""Loss terms that stay on the device until they are read."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.errors import TrainingError
from qpatchbench.training.loss_reading import EVERY, LossReading


def terms(value: float) -> dict[str, torch.Tensor]:
    """Two terms."""
    return {"clean": torch.tensor(value), "patched": torch.tensor(2 * value)}


def test_sums_are_those_of_all_steps_however_often_they_are_read() -> None:
    reading = LossReading(batches=2 * EVERY + 3)
    reading.begin({"clean": 0.5, "patched": 0.0})
    for step in range(2 * EVERY + 3):
        reading.note(terms(float(step)), step)
    total = sum(range(2 * EVERY + 3))
    assert reading.sums() == {"clean": 0.5 + total, "patched": 2.0 * total}
    assert reading.sums() == {"clean": 0.5 + total, "patched": 2.0 * total}
    reading.begin({})
    assert reading.sums() == {}


def test_the_first_step_is_shown_at_once_and_then_every_few() -> None:
    reading, shown = LossReading(batches=100), []
    for step in range(EVERY + 2):
        reading.note(terms(float(step)), step)
        shown.append(reading.figures["clean"])
    assert shown == [0.0] * EVERY + [float(EVERY)] * 2


def test_a_term_that_is_not_finite_is_found_late_and_named_as_if_at_once() -> None:
    reading = LossReading(batches=5)
    for step in range(8):
        reading.note(terms(float("nan") if step == 6 else 1.0), step)
    with pytest.raises(
        TrainingError,
        match=r"^loss term 'clean' became nan in epoch 2, step 2; expected a finite number\. A smaller learning_rate",
    ):
        reading.sums()
