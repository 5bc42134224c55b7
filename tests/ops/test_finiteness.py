"""Finite steps, noted without waiting."""

from __future__ import annotations

import torch

from qpatchbench.ops.finiteness import FiniteSteps


def test_the_first_step_that_is_not_finite_is_found() -> None:
    steps = FiniteSteps()
    assert steps.first_failure() is None
    for step in range(3):
        steps.note(torch.tensor([0.0, float(step)]), step)
    assert steps.first_failure() is None
    for step, value in ((3, 1.0), (4, float("inf")), (4, 1.0), (5, float("nan"))):
        steps.note(torch.tensor([value]), step)
    assert steps.first_failure() == 4
    assert steps.first_failure() is None, "what was told once is forgotten"
