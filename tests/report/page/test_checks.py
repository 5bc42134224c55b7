"""Every check in words, counted over the rows of a leaderboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from qpatchbench.evaluation.checks.explanations import EXPLANATIONS
from qpatchbench.report.page.checks import checks_document, overview
from qpatchbench.runs.records import Check

ROOT = Path(__file__).parents[3]


def test_every_check_is_counted_and_a_missing_one_has_not_run() -> None:
    rows = [
        [Check(id="V5", verdict="warn", message="still falls"), Check(id="V3", verdict="pass")],
        [Check(id="V5", verdict="pass"), Check(id="V3", verdict="fail", message="blind")],
        [Check(id="V5", verdict="not-run")],
    ]
    found = {finding.check: finding for finding in overview(["a", "b", "c"], rows)}
    assert list(found) == [f"V{number}" for number in range(1, 18)]
    assert found["V5"].counts == {"pass": 1, "warn": 1, "fail": 0, "not-run": 1}
    assert found["V5"].warned == (("a", "still falls"),)
    assert found["V3"].counts == {"pass": 1, "warn": 0, "fail": 1, "not-run": 1}
    assert found["V3"].warned == (), "failures are shown by themselves"
    assert found["V16"].counts == {"pass": 0, "warn": 0, "fail": 0, "not-run": 3}
    assert found["V16"].explanation.not_run.startswith("simulated only: no integer runtime was run")
    assert "gap and lavan" in found["V14"].explanation.not_run


@pytest.mark.parametrize("name", [f"V{number}" for number in range(1, 18)])
def test_every_check_is_explained(name: str) -> None:
    explanation = EXPLANATIONS[name]
    assert explanation.title[0].isupper()
    for text in (explanation.raised_if, explanation.means, explanation.do, explanation.not_run):
        assert text
        assert not text.endswith((".", " ")), text
        assert "  " not in text


def test_the_document_is_that_of_the_code() -> None:
    written = (ROOT / "results/CHECKS.md").read_text(encoding="utf-8")
    assert written == checks_document(), (
        "results/CHECKS.md is what report.page.checks.checks_document() returns; write it again"
    )
