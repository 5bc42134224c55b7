"""`--checks off`, `fast` and `full` on one tiny suite: the numbers are the same, only the verdicts differ."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from qpatchbench.suite.file.load import load_suite
from tests.cli.test_commands import invoke

SUITE = """
suite: checked
dataset: {name: fake, image_size: 8, classes: 3, noise: 0.3, train_pool: 240, test_pool: 48, calibration_images: 16,
          craft_images: 24}
models: [resnet20]
training: {epochs: 3, batch_size: 32, learning_rate: 0.05, augmentation: none}
defenses: [none]
quantizers: [{name: dynamic, bits: [32, 4]}]
attacks: [{name: lavan, size: 2, targets: [1, 2], steps: 50, batch_size: 8}]
transfer: {sources: [32, same]}
evaluation: {images: 48}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders by level; all with one cache."""
    folder = tmp_path_factory.mktemp("checked")
    (folder / "checked.yaml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("QPATCHBENCH_CACHE", str(folder / "cache"))
        for level in ("off", "fast", "full"):
            suite, output = str(folder / "checked.yaml"), str(folder / level)
            done = invoke("run", suite, "--checks", level, "--output", output, "--display", "none")
            assert done.return_value == 0, done.output
    return {level: folder / level for level in ("off", "fast", "full")}


def verdicts(run: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """Attack, source and target bits -> verdict by check."""
    cells = pq.read_table(run / "cells.parquet").to_pylist()
    return {
        (cell["attack"], cell["source_bits"], cell["target_bits"]): {
            check["id"]: check["verdict"] for check in json.loads(cell["checks"])
        }
        for cell in cells
    }


def test_fast_and_full_differ_in_the_column_of_checks_alone(runs: dict[str, Path]) -> None:
    fast, full = (pd.read_csv(runs[level] / "leaderboard.csv") for level in ("fast", "full"))
    assert len(fast) == 3
    assert fast.drop(columns=["checks", "rank"]).equals(full.drop(columns=["checks", "rank"]))


def test_without_checks_the_numbers_are_the_same(runs: dict[str, Path]) -> None:
    off, fast = (pd.read_csv(runs[level] / "leaderboard.csv") for level in ("off", "fast"))
    assert off.drop(columns=["checks", "rank"]).equals(fast.drop(columns=["checks", "rank"]))
    crafted = [found for (attack, *_), found in verdicts(runs["off"]).items() if attack == "lavan"]
    assert crafted == [{}] * 3


def test_off_needs_no_quotes(tmp_path: Path) -> None:
    """YAML 1.1 reads it as false."""
    (tmp_path / "suite.yaml").write_text(SUITE.replace("{images: 48}", "{images: 48, checks: off}"))
    assert load_suite(tmp_path / "suite.yaml").evaluation.checks == "off"


def test_full_checks_stand_at_white_box_cells_alone(runs: dict[str, Path]) -> None:
    found = verdicts(runs["full"])
    assert {"V11", "V12", "V14"} <= set(found["lavan", "4", "4"])
    assert {"V11", "V14"} <= set(found["lavan", "32", "32"])
    assert found["lavan", "4", "4"]["V14"] == found["lavan", "32", "32"]["V14"] == "pass"
    assert "V12" not in found["lavan", "32", "32"], "a float network has but one gradient"
    assert not {"V11", "V12", "V14"} & set(found["lavan", "32", "4"])
    assert not {"V5", "V11", "V12", "V14"} & set(found["random", "", "4"])
    assert not any({"V11", "V12", "V14"} & set(found) for found in verdicts(runs["fast"]).values())


@pytest.mark.parametrize("level", ["fast", "full"])
def test_convergence_and_widths_are_checked_in_both(runs: dict[str, Path], level: str) -> None:
    found = verdicts(runs[level])
    for cell, checks in found.items():
        if cell[0] == "lavan":
            assert checks["V5"] in ("pass", "warn"), "fifty steps are enough to tell"
        assert checks.get("V15") == ("pass" if cell[2] == "4" else None)


def test_the_manifest_says_what_was_computed_with(runs: dict[str, Path]) -> None:
    networks = json.loads((runs["fast"] / "manifest.json").read_text())["networks"]
    (audit,) = [network["audit"] for network in networks if network["audit"]]
    assert audit["effective_bits"]["weight"] == 4
    assert audit["most_weight_levels"] <= 15


def test_the_report_counts_and_explains_all_checks(runs: dict[str, Path]) -> None:
    page = (runs["full"] / "report.html").read_text()
    assert "<h3>All checks</h3>" in page
    for text in ("V11: A larger budget never hurts the attack", "simulated only: no integer runtime was run"):
        assert text in page


def test_the_same_command_again_does_nothing(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs["full"].parent
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(folder / "cache"))
    suite = str(folder / "checked.yaml")
    done = invoke("run", suite, "--checks", "full", "--output", str(runs["full"]), "--display", "none")
    assert "nothing to do" in done.output
    shown = invoke("plan", suite, "--set", "evaluation.checks=full").output
    assert "audit: 5 jobs, 5 done" in shown
    assert "audit" not in invoke("plan", suite).output


def test_results_from_before_these_checks_get_what_their_history_tells(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V5 is read from a finished patch; nothing is crafted again. An old network has no V15."""
    folder = runs["full"].parent
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(folder / "cache"))
    before = {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.json")}
    done = invoke("run", str(folder / "checked.yaml"), "--output", str(tmp_path / "again"), "--display", "none")
    assert done.return_value == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.json")} == before
    assert verdicts(tmp_path / "again") == verdicts(runs["fast"])
