"""Outcomes are the same however their rows are grouped in the file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qpatchbench.runs.layout import OUTCOMES
from qpatchbench.runs.run import Run

RunWith: TypeAlias = Callable[[pa.Table, int], Run]
ENTRY = Path(__file__).parents[2] / "results/entries/quickstart-seed-0"


@pytest.fixture
def run_with(tmp_path: Path) -> RunWith:
    """A run folder with some table of outcomes, in groups of some rows."""

    def made(table: pa.Table, rows: int) -> Run:
        folder = tmp_path / f"{rows}"
        folder.mkdir()
        for name in ("manifest.json", "cells.parquet"):
            shutil.copy(ENTRY / name, folder)
        pq.write_table(table, folder / OUTCOMES, row_group_size=rows)
        return Run(folder)

    return made


@pytest.mark.parametrize("rows", [7, 1000, 10**6])
def test_cells_may_be_split_and_share_groups(run_with: RunWith, rows: int) -> None:
    known = Run(ENTRY)
    found = run_with(pq.read_table(ENTRY / OUTCOMES).slice(0, 4000), rows)
    cells = [cell for cell in known.cells if cell.cell in found.measured_cells]
    assert len(cells) > 1
    whole = [cell for cell in cells if len(known.outcomes(cell).patched.ravel()) * (cells.index(cell) + 1) <= 4000]
    assert whole
    for cell in reversed(whole):
        assert np.array_equal(found.outcomes(cell).patched, known.outcomes(cell).patched)
        assert np.array_equal(found.stored(cell).rows, known.stored(cell).rows)


def test_rows_of_cells_may_alternate(run_with: RunWith) -> None:
    known = Run(ENTRY)
    table = pq.read_table(ENTRY / OUTCOMES)
    first, second = known.cells[:2]
    length = known.outcomes(first).patched.size
    order = np.arange(2 * length).reshape(2, length).T.ravel()
    found = run_with(table.take(pa.array(order)), 10**6)
    for cell in (first, second):
        assert np.array_equal(found.outcomes(cell).patched, known.outcomes(cell).patched)
