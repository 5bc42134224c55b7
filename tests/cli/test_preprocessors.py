"""A whole run with preprocessors of a plugin, through the command line: rows, patches, checks and pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.running import ended

ROOT = Path(__file__).parents[2]
SUITE = """
suite: shaded
dataset: {name: fake, image_size: 16, classes: 3, noise: 0.3, train_pool: 160, test_pool: 90, calibration_images: 16,
          craft_images: 24}
models: [resnet20]
training: {epochs: 4, batch_size: 8, learning_rate: 0.02, augmentation: none}
defenses: [none]
quantizers: [{name: fp, bits: [32]}]
preprocessors: [none, window, blindfold, {name: depth, depth: 2, label: coarse}, jitter]
attacks: [{name: lavan, size: 10, targets: [1], steps: 40, step_size: 0.1, batch_size: 4}]
transfer: {sources: [32, same]}
evaluation: {images: 90}
"""


def run(folder: Path, output: str = "out") -> None:
    """The suite with its plugin."""
    arguments = ("--plugin", "shades.py", "run", "shaded.yaml", "--output", output, "--display", "plain")
    done = ended(*arguments, folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where SUITE ran; its run folder is "out"."""
    root = tmp_path_factory.mktemp("shaded")
    (root / "shaded.yaml").write_text(SUITE)
    shutil.copy(ROOT / "tests" / "preprocessors" / "shades.py", root)
    run(root)
    return root


@pytest.fixture(scope="module")
def board(folder: Path) -> pd.DataFrame:
    """The leaderboard by preprocessor and that of the source."""
    frame = pd.read_csv(folder / "out" / "leaderboard.csv")
    return frame.set_index(["preprocessor", "source_preprocessor"]).sort_index()


def row(board: pd.DataFrame, preprocessor: str, source: str) -> dict[Any, Any]:
    """The only one of its kind."""
    (found,) = board[board.index == (preprocessor, source)].to_dict("records")
    return found


def of(board: pd.DataFrame, preprocessor: str, source: str, column: str) -> float:
    return float(row(board, preprocessor, source)[column])


def checks(board: pd.DataFrame, preprocessor: str, source: str) -> str:
    return str(row(board, preprocessor, source)["checks"])


def test_every_preprocessor_has_its_rows(board: pd.DataFrame) -> None:
    others = ("window", "blindfold", "coarse", "jitter")
    assert set(board.index) == {("none", "none"), *((name, source) for name in others for source in ("none", name))}
    assert (board["status"] == "ok").all()
    white_box = board[board["lineage"] == "same-network"]
    assert all(target == source for target, source in white_box.index)
    assert set(board[board["lineage"] == "shared-weights"].index) == {(name, "none") for name in others}
    assert not board["transfer_only"].any()


def test_a_patch_from_elsewhere_is_crafted_once_and_the_adaptive_ones_are_others(folder: Path) -> None:
    cells = pd.read_parquet(folder / "out" / "cells.parquet")
    crafted = cells[~cells["control"]]
    bare = crafted[crafted["source_preprocessor"] == "none"]
    assert len(bare) == 5
    assert bare["patch"].nunique() == 1
    assert crafted["patch"].nunique() == 5, "the bare one, and one through each preprocessor"
    assert crafted["network"].nunique() == 5


def test_the_identity_gives_the_numbers_of_the_bare_network(board: pd.DataFrame) -> None:
    numbers = [name for name in board.columns if name.startswith(("asr", "n_", "clean", "robust"))]
    assert len(numbers) > 20
    bare, *others = (
        {name: str(row(board, target, source)[name]) for name in numbers}
        for target, source in (("none", "none"), ("window", "none"), ("window", "window"))
    )
    assert others == [bare, bare]
    assert of(board, "none", "none", "clean_accuracy") > 90


def test_a_blind_network_answers_at_chance_and_says_so(board: pd.DataFrame) -> None:
    assert of(board, "blindfold", "none", "clean_accuracy") == pytest.approx(100 / 3, abs=1e-3)
    assert "V6" in checks(board, "blindfold", "none")
    assert "V3" in checks(board, "blindfold", "blindfold"), "no gradient comes through"
    assert board["rank"].loc["blindfold"].isna().all()


@pytest.mark.numerical
def test_rounding_is_attacked_through_the_identity(board: pd.DataFrame) -> None:
    """Over six seeds asr_net_low was 40 or more. Which of two short searches is better, V4, is left open."""
    assert of(board, "coarse", "coarse", "asr_net_low") > 0
    found = checks(board, "coarse", "coarse")
    assert "V2" not in found, "significantly above the control"
    assert "V3" not in found, "gradients are useful"


@pytest.mark.numerical
def test_a_random_preprocessor_passes_and_is_reproducible(folder: Path, board: pd.DataFrame) -> None:
    assert "V8" not in checks(board, "jitter", "jitter")
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    again = [
        job for job in manifest["jobs"] if "after jitter" in job["label"] and job["kind"] in ("deploy", "evaluate")
    ]
    assert len(again) == 5
    for job in again:
        for path in (folder / "cache" / job["kind"]).rglob(f"{job['key']}*"):
            path.unlink()
    run(folder, "again")
    made = json.loads((folder / "again" / "manifest.json").read_text())["jobs"]
    # One that took as long as before, to the millisecond, looks as if it had not been computed.
    measured = {job["label"] for job, other in zip(made, manifest["jobs"], strict=True) if job != other}
    assert measured, "they were deleted"
    assert measured <= {job["label"] for job in again}, "nothing else was computed"
    found, before = ((folder / name / "leaderboard.csv").read_bytes() for name in ("again", "out"))
    assert found == before


@pytest.mark.numerical
def test_ranks_are_given_to_white_box_rows_among_themselves(board: pd.DataFrame) -> None:
    white_box = board[board["lineage"] == "same-network"]
    ranked = white_box[white_box["rank"].notna()]
    sound = white_box[~white_box["checks"].str.contains("fail")]
    assert set(ranked.index) == set(sound.index), "whatever a check found wrong has no rank"
    assert ranked["rank"].min() == 1
    assert of(board, "none", "none", "rank") == of(board, "window", "window", "rank"), "equal numbers, a tie"


def test_pictures_and_tables_tell_them_apart(folder: Path) -> None:
    out = folder / "out"
    names = {path.name for path in (out / "plots").glob("*.png")}
    for kind in ("transfer", "pasted"):
        for preprocessor in ("none", "window", "coarse", "jitter"):
            assert any(name.startswith(kind) and f"_{preprocessor}_" in name for name in names), (kind, preprocessor)
    text = (out / "leaderboard.md").read_text()
    assert "| none + coarse |" in text
    assert "| fp@32 + coarse |" in text
    assert "preprocessors" in (out / "report.html").read_text()
