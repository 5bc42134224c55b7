"""V13 and the queries of score-based attacks, from whole run folders whose outcomes are given by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.runs.records import Check, QueryCounts
from qpatchbench.runs.run import Run
from tests.report.run_folders import Folder

COUNT = 200
ALONE: dict[str, Any] = {"patch_kind": "per_image", "goal_kind": "untargeted"}
MakeFolder = Callable[..., Folder]


@pytest.fixture
def folder(tmp_path: Any) -> Folder:  # noqa: ANN401 (a path)
    return Folder(tmp_path / "run", np.zeros(COUNT, np.int64))


def fooled(first: int) -> dict[str, np.ndarray]:
    """The first `first` images are fooled."""
    return {"untargeted": (np.arange(COUNT) < first).astype(np.int32)}


def masking_of(folder: Folder) -> dict[str, Check | None]:
    board = Leaderboard(Run(folder.write()))
    found = {}
    for row, checks in zip(board.frame.to_dict("records"), board.checks, strict=True):
        found[f"{row['attack']}{row['transformation']}"] = next((each for each in checks if each.id == "V13"), None)
    return found


def add(folder: Folder, attack: str, count: int, **facts: Any) -> None:  # noqa: ANN401 (fields of a record)
    folder.add(np.zeros(COUNT), fooled(count), attack=attack, **{**ALONE, **facts})


def test_scores_that_beat_gradients_are_masking(folder: Folder) -> None:
    add(folder, "gradient", 20)
    add(folder, "blind", 60, access="scores")
    found = masking_of(folder)
    for attack in ("gradient", "blind"):
        check = found[attack]
        assert check is not None
        assert check.verdict == "fail"
        assert "attacks without gradients fool 60 of 200, those with gradients 20" in check.message


@pytest.mark.parametrize("scores", [10, 20, 23])
def test_scores_that_do_not_are_none(folder: Folder, scores: int) -> None:
    add(folder, "gradient", 20)
    add(folder, "blind", scores, access="scores")
    assert {check and check.verdict for check in masking_of(folder).values()} == {"pass"}


def test_the_union_of_gradient_attacks_is_what_counts(folder: Folder) -> None:
    folder.add(np.zeros(COUNT), {"untargeted": (np.arange(COUNT) >= 150).astype(np.int32)}, attack="late", **ALONE)
    add(folder, "early", 30)
    add(folder, "blind", 60, access="scores")
    assert {check and check.verdict for check in masking_of(folder).values()} == {"pass"}, "80 against 60"


def test_without_scores_there_is_nothing_to_say(folder: Folder) -> None:
    add(folder, "gradient", 20)
    assert masking_of(folder) == {"gradient": None}


def test_a_free_search_is_compared_with_a_free_search(folder: Folder) -> None:
    """A patch that may choose its place beats one that may not, and that says nothing of gradients."""
    add(folder, "gradient", 20)
    add(folder, "blind", 60, access="scores", places="chosen")
    found = masking_of(folder)["blind"]
    assert found is not None
    assert found.verdict == "not-run"
    assert "as free in its places" in found.message
    add(folder, "free", 70, places="chosen")
    assert {check and check.verdict for check in masking_of(folder).values()} == {"pass"}


def test_universal_and_transferred_patches_are_not_compared(folder: Folder) -> None:
    add(folder, "universal", 90, patch_kind="universal")
    add(folder, "foreign", 90, lineage="shared-weights")
    add(folder, "blind", 60, access="scores")
    found = masking_of(folder)
    assert found["foreign"] is None
    blind = found["blind"]
    assert blind is not None
    assert blind.verdict == "not-run"


def test_few_images_decide_nothing(folder: Folder) -> None:
    clean = (np.arange(COUNT) >= 100).astype(np.int32)  # the first 100 are right
    for attack, count, access in (("gradient", 0, "gradient"), ("blind", 90, "scores")):
        folder.add(clean, fooled(count), attack=attack, access=access, **ALONE)
    blind = masking_of(folder)["blind"]
    assert blind is not None
    assert (blind.verdict, blind.message) == ("not-run", "100 eligible images, expected at least 128")


def test_success_within_budgets_of_queries(folder: Folder) -> None:
    add(folder, "blind", 60, access="scores")
    queries = tuple(QueryCounts(budget=b, n_fooled=n) for b, n in ((1_000, 20), (5_000, 50), (10_000, 60)))
    folder.cells[0] = folder.cells[0].model_copy(update={"queries": queries, "queries_median": 1234.0})
    add(folder, "gradient", 20)
    frame = Leaderboard(Run(folder.write())).frame.set_index("attack")
    names = ["asr_1000_queries", "asr_5000_queries", "asr_10000_queries", "queries_median"]
    assert list(frame.loc["blind", names]) == [10.0, 25.0, 30.0, 1234.0]
    assert frame.loc["blind", "asr"] == 30.0
    assert all(math.isnan(float(str(value))) for value in frame.loc["gradient", names])


def test_a_patch_that_was_moved_is_a_row_of_its_own(folder: Folder) -> None:
    add(folder, "gradient", 40)
    add(folder, "gradient", 10, transformation="shift 2,2", cell="moved")
    for moved, count in (("", 5), ("shift 2,2", 10)):
        facts: dict[str, Any] = {"transformation": moved, "control": True, "cell": f"random{moved}"}
        folder.add(np.zeros(COUNT), fooled(count), attack="random", goal_kind="untargeted", **facts)
    board = Leaderboard(Run(folder.write()))
    rows = {row["transformation"]: row for row in board.frame.to_dict("records")}
    assert [rows[moved]["asr"] for moved in ("", "shift 2,2")] == [20.0, 5.0]
    assert [rows[moved]["asr_control"] for moved in ("", "shift 2,2")] == [2.5, 5.0], (
        "each has the control in its place"
    )
    assert [rows[moved]["checks"] for moved in ("", "shift 2,2")] == ["ok", "warn V2"], "a move is no broken attack"
    assert rows["shift 2,2"]["asr_worst"] == 5.0, "the worst case is over sources in one place"
