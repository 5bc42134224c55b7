"""Every suite that validates reaches its export: none of its jobs fails, and its leaderboard is there.

What no suite file can know, such as whether weights fit a network, may still be refused before the first job.
More and others: `QPATCHBENCH_SUITES=300 pytest tests/suite/valid`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings

from qpatchbench.cli import cli
from qpatchbench.errors import SuiteError
from qpatchbench.suite.file.load import load_suite
from qpatchbench.suite.plan.fingerprints import unread_data_keys
from qpatchbench.suite.plan.plan import make_plan
from tests.suite.valid.suites import suites

MANY = int(os.environ.get("QPATCHBENCH_SUITES", "0"))
MOST_JOBS = 40 if MANY else 16


@pytest.mark.timeout(0 if MANY else 300)
def test_every_suite_that_validates_reaches_its_leaderboard(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=MANY or 30,
        derandomize=not MANY,
        database=None,
        deadline=None,
        phases=[Phase.generate, *([Phase.shrink] if MANY else [])],
        suppress_health_check=list(HealthCheck),
    )
    @given(suites())
    def reaches(drawn: dict[str, Any]) -> None:
        outcomes[outcome(drawn, tmp_path)] += 1

    reaches()
    assert outcomes["done"] >= 3, outcomes


def outcome(drawn: dict[str, Any], folder: Path) -> str:
    """How far a suite came: refused, too long for a test, or done.

    Raises:
        AssertionError: it was valid, and a job failed or the leaderboard is missing.
    """
    path, output = folder / "drawn.yaml", folder / "run"
    path.write_text(yaml.safe_dump(drawn, sort_keys=False))
    try:
        suite = load_suite(path)
    except SuiteError:
        return "refused"
    weights = {model.title: "" for model in suite.models}
    if len(make_plan(suite, unread_data_keys(suite), weights).jobs) > MOST_JOBS:
        return "too long"
    options = ["--output", str(output), "--overwrite", "--display", "plain"]
    environment = {"QPATCHBENCH_CACHE": str(folder / "cache"), "QPATCHBENCH_DATA": None}
    result = CliRunner().invoke(cli, ["run", str(path), *options], standalone_mode=False, env=environment)
    if isinstance(result.exception, SuiteError):
        return "refused at the start"
    told = f"{path.read_text()}\n{result.output}\n{result.exception!r}"
    assert result.exception is None, told
    assert result.return_value == 0, told
    assert (output / "leaderboard.csv").is_file(), told
    return "done"
