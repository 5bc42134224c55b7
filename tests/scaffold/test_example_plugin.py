"""The example plugin: it is what the scaffold wrote, made somebody's own, and its suite runs.

Its own tests, conformance checks among them, are collected from its folder like any others.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from qpatchbench.cli import cli
from qpatchbench.scaffold import scaffold
from tests.scaffold.installed import installed

LEFT_BEHIND = re.compile(r"^results/|__pycache__|\.egg-info|cache/")  # by whoever tried it
EXAMPLE = Path(__file__).parents[1] / "example_plugin"
SHORTER = (
    "limit=40",
    "training.epochs=1",
    "training.images_per_epoch=64",
    "quantizers=[{name: fp}]",
    "attacks.0.steps=2",
    "attacks.0.targets=[0]",
)


def test_its_files_are_those_that_the_scaffold_writes() -> None:
    expected = scaffold("preprocessor", "random_resize")
    found = {path.relative_to(EXAMPLE).as_posix() for path in EXAMPLE.rglob("*") if path.is_file()}
    found = {path for path in found if not LEFT_BEHIND.search(path)}
    assert found == {*expected, "conftest.py"}, "conftest.py lets this repository's tests find it uninstalled"

    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("description")]

    assert lines((EXAMPLE / "pyproject.toml").read_text()) == lines(expected["pyproject.toml"])
    own, written = (EXAMPLE / "README.md").read_text(), expected["README.md"]
    assert own.partition("## Four commands")[2] == written.partition("## Four commands")[2]


def test_its_suite_ends_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(tmp_path / "cache"))
    arguments = ["run", str(EXAMPLE / "suite.yaml"), "--output", str(tmp_path / "out"), "--display", "none"]
    for override in SHORTER:
        arguments += ["--set", override]
    (tmp_path / "metadata").mkdir()
    with installed(EXAMPLE, tmp_path / "metadata"):
        result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert result.exception is None, result.output
    with (tmp_path / "out" / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["preprocessor"] for row in rows} == {"none", "random_resize"}
    assert all(row["n_images"] == "40" for row in rows)
