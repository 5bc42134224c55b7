"""V5, V11 and V12 from what finished jobs left behind, and from what failed ones did not."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from qpatchbench.suite.execution.executor import Display, Execution, Worker
from qpatchbench.suite.execution.later_checks import LaterChecks
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.store import Artifact, Store
from tests.suite.conftest import MakePlan

NOBODY = cast("Worker", None)
SILENT = cast("Display", None)


def executed(plan: Plan, folder: Path, history: list[float]) -> Execution:
    """All patches crafted with one history; every audit failed."""
    store = Store(folder)
    for cell in plan.cells:
        store.write("craft", cell.patch.key, Artifact({"textures": np.zeros(1)}, {"history": history}))
    errors = {job.key: "Traceback ...\nMemoryError: too large" for job in plan.audits}
    return Execution(plan, store, NOBODY, SILENT, errors=errors)


def test_convergence_is_read_from_the_history_of_the_patch(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of()
    later = LaterChecks(executed(plan, tmp_path, list(np.linspace(1, 0, 100))))
    assert {cell.control for cell in plan.cells} == {False, True}
    for cell in plan.cells:
        found = [(check.id, check.verdict) for check in later.of(cell)]
        assert found == ([] if cell.control else [("V5", "warn")])


def test_a_failed_audit_is_told_and_fails_nothing_else(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of(evaluation={"checks": "full"}, transfer={"sources": ["same"]})
    later = LaterChecks(executed(plan, tmp_path, []))
    (cell,) = [cell for cell in plan.cells if not cell.control and str(cell.target.bits) == "4"]
    assert [(check.id, check.verdict, check.message) for check in later.of(cell)] == [
        ("V5", "not-run", "0 steps were recorded, expected at least 50"),
        ("V11", "not-run", "its job failed: MemoryError: too large"),
        ("V12", "not-run", "its job failed: MemoryError: too large"),
        ("V14", "not-run", "its job failed: MemoryError: too large"),
    ]


@pytest.mark.parametrize("history", [[], [1.0] * 100])
def test_without_checks_nothing_is_said(plan_of: MakePlan, tmp_path: Path, history: list[float]) -> None:
    plan = plan_of(evaluation={"checks": "off"})
    later = LaterChecks(executed(plan, tmp_path, history))
    assert plan.audits == ()
    assert all(later.of(cell) == [] for cell in plan.cells)
