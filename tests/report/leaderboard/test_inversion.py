"""V4, transfer inversion, from whole run folders whose outcomes are given by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpatchbench.evaluation.checks.paired import own_patch_holds_up
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.runs.records import Check
from qpatchbench.runs.run import Run
from tests.report.run_folders import Folder

COUNT = 200


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run", np.zeros(COUNT, np.int64))


def add(folder: Folder, count: int, *, last: bool = False, **facts: Any) -> None:  # noqa: ANN401 (fields of a record)
    """A cell whose first (or last) `count` images are fooled."""
    place = np.arange(COUNT)
    fooled = place >= COUNT - count if last else place < count
    outcome = {"untargeted": fooled.astype(np.int32)}
    folder.add(np.zeros(COUNT), outcome, **{"attack": "gap", "goal_kind": "untargeted", **facts})


def inversions(folder: Folder) -> dict[str, Check | None]:
    board = Leaderboard(Run(folder.write()))
    return {
        str(row["source_bits"]): next((check for check in checks if check.id == "V4"), None)
        for row, checks in zip(board.frame.to_dict("records"), board.checks, strict=True)
    }


def test_a_transferred_patch_that_beats_the_networks_own_is_an_inversion(folder: Folder) -> None:
    add(folder, 20, source_bits="4")
    add(folder, 60, source_bits="32", lineage="shared-weights")
    found = inversions(folder)
    check = found["4"]
    assert check is not None
    assert check.verdict == "fail"
    assert "@32 fools 60 of 200, the network's own 20" in check.message
    assert found["32"] is None, "the transferred row is not to blame"


@pytest.mark.parametrize("count", [5, 20, 23])
def test_weaker_and_equal_ones_are_none(folder: Folder, count: int) -> None:
    add(folder, 20, source_bits="4")
    add(folder, count, source_bits="32", lineage="shared-weights")
    check = inversions(folder)["4"]
    assert check is not None
    assert check.verdict == "pass"


@pytest.mark.parametrize("facts", [{"attack": "lavan"}, {"lineage": "ensemble"}, {"patch_height": 8, "patch_width": 8}])
def test_only_the_same_attack_and_size_from_elsewhere_counts(folder: Folder, facts: dict[str, Any]) -> None:
    add(folder, 20, source_bits="4")
    add(folder, 90, **{"source_bits": "32", "lineage": "shared-weights", **facts})
    assert inversions(folder)["4"] is None


def test_many_sources_share_one_level() -> None:
    """12 discordant images to 2: p = 0.013, an inversion for one source alone, but not for the best of ten."""
    own, best = np.zeros((1, 1, COUNT), bool), np.zeros((1, 1, COUNT), bool)
    own[..., :2], best[..., 2:14] = True, True
    eligible = np.ones((1, 1, COUNT), bool)
    assert own_patch_holds_up(own, [("a", best)], eligible).verdict == "fail"
    others = [(str(index), np.zeros_like(own)) for index in range(9)]
    assert own_patch_holds_up(own, [("a", best), *others], eligible).verdict == "pass"


def test_without_eligible_images_nothing_is_said() -> None:
    nothing = np.zeros((1, 1, 5), bool)
    check = own_patch_holds_up(nothing, [("a", nothing)], nothing)
    assert (check.verdict, check.message) == ("not-run", "no image is eligible")
