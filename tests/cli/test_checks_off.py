"""A run without checks: no row says that one failed, or that one passed."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import TinyRuns


@pytest.fixture(scope="module")
def unchecked(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unchecked")
    options = ("--output", str(folder), "--seeds", "0", "--checks", "off", "--display", "none")
    done = tiny_runs.invoke("run", str(tiny_runs.root / "tiny.yaml"), *options)
    assert done.return_value == 0, done.output
    return folder


def test_no_row_has_a_verdict(unchecked: Path) -> None:
    rows = list(csv.DictReader((unchecked / "leaderboard.csv").read_text().splitlines()))
    assert rows
    assert {row["checks"] for row in rows} == {"not run"}


def test_no_cell_has_a_check(unchecked: Path) -> None:
    cells = pq.read_table(unchecked / "cells.parquet").to_pylist()
    assert {str(cell["checks"]) for cell in cells} == {"[]"}
