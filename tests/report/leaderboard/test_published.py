"""What is read of a run folder, and of what was published of one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qpatchbench.errors import ArtifactError
from qpatchbench.papers.matching import Measured, SearchedRun
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.leaderboard.published import RunFolder, read_folder
from qpatchbench.report.page.analyses import analysis_texts
from qpatchbench.runs.files import write_atomically
from qpatchbench.runs.run import Run
from tests.papers.test_matching import FULL, published, record
from tests.papers.test_matching_analyses import COSTS, SIMILAR


def test_analyses_of_a_published_folder_are_read_from_text(tmp_path: Path) -> None:
    """A published folder has no Parquet; what the .csv says comes back with its types."""
    costs = [{**each, "all_widths": True} for each in COSTS]
    directory = tmp_path / "run"
    directory.mkdir()
    for name, rows in (("costs", costs), ("similarity", SIMILAR)):
        pq.write_table(pa.Table.from_pylist([*rows]), directory / f"{name}.parquet")
    (directory / "manifest.json").write_text(json.dumps(FULL))
    board = record()
    (directory / "leaderboard.csv").write_text(",".join(board) + "\n" + ",".join(board.values()) + "\n")
    whole = read_folder(directory)
    for name, text in analysis_texts(directory, ("csv",)):
        (directory / name).write_text(text)
    for name in ("costs", "similarity"):
        (directory / f"{name}.parquet").unlink()
    published = read_folder(directory)
    assert published.costs == whole.costs == tuple(costs)
    assert published.similarity == whole.similarity == SIMILAR
    assert published.costs[0]["bits"] == "32 8 5 4 2"
    assert published.similarity[0]["first_bits"] == "32"


def test_a_simulated_run_gives_the_numbers_of_its_leaderboard(simulated: Path, tmp_path: Path) -> None:
    frame = Leaderboard(Run(simulated)).frame
    value = published("triqdef.1", model="resnet20", attack="lavan", target_bits="4")
    run = read_folder(simulated)
    sized = tuple(replace(each, patch_height=6, patch_width=6) for each in run.rows)
    found = SearchedRun(RunFolder(run.name, run.manifest, sized)).find("triqdef.1", value, "qat")
    (expected,) = (
        each
        for each in frame.to_dict("records")
        if (each["model"], each["defense"], each["attack"], each["quantization"], each["target_bits"])
        == ("resnet20", "qat", "lavan", "qat", "4")
        and (each["source_model"], each["source_bits"]) == ("resnet20", "32")
    )
    assert isinstance(found, Measured)
    numbers = [expected[name] for name in ("asr", "asr_low", "asr_high")]
    assert [found.value, found.low, found.high] == pytest.approx(numbers, abs=1e-4)
    assert found.n == expected["n_eligible"]
    assert "images: cifar10 (jpeg)" in found.departures
    assert run.rows[0].size == "5x5"
    assert run.rows[0].base == "cifar10"


def test_the_written_leaderboard_is_read_and_an_old_one_is_not(simulated: Path, tmp_path: Path) -> None:
    from qpatchbench.report.page.tables import whole_grid

    names = ("manifest.json", "cells.parquet", "outcomes.parquet", "examples.safetensors")
    for name in names:
        write_atomically(tmp_path / name, (simulated / name).read_bytes())
    rows = Leaderboard(Run(simulated)).rows
    board = write_atomically(tmp_path / "leaderboard.csv", whole_grid(rows[:3]).csv().encode())
    assert len(read_folder(tmp_path).rows) == 3
    os.utime(board, (0, 0))
    assert len(read_folder(tmp_path).rows) == len(rows)
    for name in names[1:]:
        (tmp_path / name).unlink()
    assert len(read_folder(tmp_path).rows) == 3, "what was published of a run is enough"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected a run folder with manifest.json and leaderboard.csv or cells.parquet, found an empty folder"),
        ({"a.txt": "", "b.txt": ""}, "or cells.parquet, found a.txt, b.txt"),
        ({"manifest.json": "{}"}, "or cells.parquet, found manifest.json"),
        ({"manifest.json": "{", "leaderboard.csv": ""}, "manifest.json: expected JSON: "),
        ({"manifest.json": "[]", "leaderboard.csv": ""}, "manifest.json: expected a JSON object, found list"),
        ({"manifest.json": "{}", "leaderboard.csv": "a,b\n1,2\n"}, "expected a leaderboard, found columns a, b"),
    ],
)
def test_what_is_no_run_folder_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ArtifactError) as caught:
        read_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found no such folder"):
        read_folder(tmp_path / "nowhere")
