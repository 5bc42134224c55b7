"""Run folders: whose they are, what a run may replace, damage to what was written, and two runs at a time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from qpatchbench.errors import OutputError
from qpatchbench.runs.ownership import claim, owned_files, refuse_foreign, writing_alone
from tests.cli.conftest import TinyRuns

Run = Callable[..., Result]


@pytest.fixture
def folder(tiny_runs: TinyRuns, tmp_path: Path) -> Path:
    """A copy of a finished run, whole."""
    shutil.copytree(tiny_runs.first, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def run(tiny_runs: TinyRuns) -> Run:
    """The same suite again."""

    def again(output: Path, *options: str) -> Result:
        suite = str(tiny_runs.root / "tiny.yaml")
        return tiny_runs.invoke("run", suite, "--output", str(output), "--seeds", "0", "--display", "none", *options)

    return again


def test_a_folder_of_files_that_no_run_wrote_is_refused_and_left_alone(run: Run, tmp_path: Path) -> None:
    for name in ("patches/a.safetensors", "plots/curves_mine.png"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True)
        (tmp_path / "mine" / name).write_text("mine")
    done = run(tmp_path / "mine")
    assert str(done.exception) == (
        f"{tmp_path / 'mine'}: expected an empty folder or one of suite 'tiny', found 2 files and folders that no run "
        "wrote, the first: patches; choose another --output, or add --overwrite"
    )
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["patches", "plots"]


def test_results_of_another_suite_are_refused(folder: Path) -> None:
    with pytest.raises(OutputError) as told:
        refuse_foreign(folder, "other", partial=False)
    assert str(told.value) == (
        f"{folder}: expected a folder of suite 'other', found results of 'tiny'; choose another --output, or add "
        "--overwrite"
    )


def test_a_partial_run_does_not_replace_a_whole_one(run: Run, folder: Path) -> None:
    before = (folder / "leaderboard.csv").read_bytes()
    done = run(folder, "--limit", "8")
    assert str(done.exception) == (
        f"{folder}: expected a folder of its own for a partial run (--limit), found the whole run of 'tiny'; choose "
        "another --output, or add --overwrite"
    )
    assert (folder / "leaderboard.csv").read_bytes() == before


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="expected a folder for the results, found a file"):
        refuse_foreign(tmp_path / "taken", "tiny", partial=False)


def test_a_run_that_was_killed_early_goes_on_in_its_folder(tmp_path: Path) -> None:
    claim(tmp_path, "tiny")
    refuse_foreign(tmp_path, "tiny", partial=False)


def test_a_run_that_was_killed_while_it_claimed_its_folder_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: os._exit(0))
    if (child := os.fork()) == 0:
        claim(tmp_path, "tiny")
    os.waitpid(child, 0)
    assert [path.name.startswith(".") for path in tmp_path.iterdir()] == [True]
    refuse_foreign(tmp_path, "tiny", partial=False)


def test_a_users_own_files_in_a_run_folder_stay(run: Run, folder: Path) -> None:
    own = [
        folder / "patches" / "mine.safetensors",
        folder / "plots" / "curves_mine.png",
        folder / "plots" / "asr_x.png",
    ]
    for path in own:
        path.write_text("mine")
    (folder / "cells.parquet").unlink()
    done = run(folder)
    assert done.return_value == 0, done.output
    assert [path.read_text() for path in own] == ["mine"] * 3


def test_only_files_that_the_same_suite_wrote_are_owned(folder: Path) -> None:
    assert any(name.startswith("patches/") for name in owned_files(folder, "tiny"))
    assert owned_files(folder, "other") == set()


def test_a_partial_run_says_so(run: Run, folder: Path) -> None:
    line = "partial run: at most 8 evaluation images, by --limit; its numbers are no results of suite 'tiny'"
    done = run(folder, "--limit", "8", "--overwrite")
    assert done.return_value == 0, done.output
    assert line in done.output.splitlines()
    again = run(folder, "--limit", "8")
    assert "nothing to do" in again.output
    assert line in again.output.splitlines()


@pytest.mark.parametrize(
    "pattern",
    ["manifest.json", "cells.parquet", "outcomes.parquet", "examples.safetensors", "patches/*", "leaderboard.csv",
     "leaderboard.md", "plots/*", "report.html"],
)  # fmt: skip
def test_damaged_results_are_written_again(run: Run, folder: Path, pattern: str) -> None:
    run(folder)
    path = sorted(folder.glob(pattern))[0]
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    done = run(folder)
    assert done.return_value == 0, done.output
    assert "nothing to do" not in done.output
    if path.name != "manifest.json":  # which names this moment's revision of the code
        assert path.read_bytes() == intact


def test_a_second_run_in_the_folder_is_told(run: Run, folder: Path) -> None:
    (folder / "cells.parquet").unlink()
    with writing_alone(folder):
        done = run(folder)
    assert str(done.exception) == (
        f"{folder}: expected to write here alone, found another run at work; wait until it ends, or choose "
        "another --output"
    )
    assert run(folder).return_value == 0


def test_the_hashes_name_every_file_of_the_folder(run: Run, folder: Path) -> None:
    run(folder)
    named = set(json.loads((folder / ".report.json").read_text())["files"])
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found - named == {".report.json", ".run.json"}


def test_a_run_whose_jobs_used_other_numbers_of_threads_says_so(
    tmp_path: Path, tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_runs.cache, tmp_path / "cache")
    for path in (tmp_path / "cache" / "evaluate").rglob("*.safetensors"):
        path.unlink()
    kept = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: kept + 1)  # more in truth would wait for each other
    suite = str(tiny_runs.root / "tiny.yaml")
    options = ("--output", str(tmp_path / "out"), "--seeds", "0", "--display", "none")
    done = tiny_runs.invoke("run", suite, *options, cache=tmp_path / "cache")
    mixed = json.loads((tmp_path / "out" / "manifest.json").read_text())["mixed"]
    assert mixed.startswith(f"threads: {kept} (")
    assert f"mixed run: its jobs were not computed alike, so that no single machine repeats it: {mixed}" in done.output
