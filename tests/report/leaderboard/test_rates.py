"""Rates of a tiny run, counted by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qpatchbench.errors import ArtifactError
from qpatchbench.evaluation.checks.paired import beats_control
from qpatchbench.report.leaderboard.board import Leaderboard, checks_text, merged_checks
from qpatchbench.report.leaderboard.keys import bits_order
from qpatchbench.report.leaderboard.ranks import Contestant, ranks
from qpatchbench.report.leaderboard.row import COLUMNS
from qpatchbench.runs.outcomes import assert_identities, target_of
from qpatchbench.runs.records import Check, GoalCounts
from qpatchbench.runs.run import Run
from qpatchbench.statistics.intervals import cluster_bootstrap_rate, wilson

NewFolder = Callable[..., Any]

#         image   0  1  2  3  4  5  6  7
LABELS = (0, 0, 0, 1, 1, 1, 2, 2)
CLEAN4 = (0, 0, 1, 1, 1, 1, 2, 0)  # wrong: 2 and 7
CLEAN8 = (0, 0, 0, 1, 1, 0, 2, 2)  # wrong: 5


def _board(folder: Any, **how: bool) -> pd.DataFrame:  # noqa: ANN401 (a fixture's folder)
    return Leaderboard(Run(folder.write(**how))).frame


def _two_networks(new_folder: NewFolder) -> Any:  # noqa: ANN401 (a fixture's folder)
    """One targeted patch, crafted at 8 bits, at 8 bits and at 4; random controls on both."""
    folder = new_folder(LABELS)
    source = {"source_bits": "8"}
    # Target 1. At 4 bits, eligible are 0, 1, 6: fooled are 0 (hit) and 6 (elsewhere).
    folder.add(CLEAN4, {"1": (1, 0, 1, 1, 1, 1, 0, 0)}, target_bits="4", **source)
    # At 8 bits, eligible are 0, 1, 2, 6, 7: fooled are 0 (hit), 1 (hit), 7 (elsewhere).
    folder.add(CLEAN8, {"1": (1, 1, 0, 1, 0, 1, 2, 0)}, target_bits="8", **source)
    # The controls fool image 0 at 4 bits, none at 8; image 2 at 4 bits is wrong, but was so before.
    folder.add(CLEAN4, {"1": (2, 0, 1, 1, 1, 1, 2, 0)}, target_bits="4", attack="random", control=True)
    folder.add(CLEAN8, {"1": CLEAN8}, target_bits="8", attack="random", control=True)
    return folder


@pytest.mark.parametrize("how", [{}, {"one_group": True}, {"one_group": True, "shuffle": True}])
def test_rates_counted_by_hand(new_folder: NewFolder, how: dict[str, bool]) -> None:
    frame = _board(_two_networks(new_folder), **how)
    assert list(frame["target_bits"]) == ["8", "4"]
    eight, four = frame.iloc[0], frame.iloc[1]
    assert (four["n_eligible"], four["n_fooled"], four["n_hit"], four["n_robust"]) == (3, 2, 1, 4)
    assert four["asr"] == pytest.approx(200 / 3)
    assert four["asr_targeted"] == pytest.approx(100 / 3)
    assert (four["asr_low"], four["asr_high"]) == pytest.approx([100 * bound for bound in wilson(2, 3)])
    assert four["asr_control"] == pytest.approx(100 / 3)
    assert four["asr_net"] == pytest.approx(100 / 3)
    assert four["clean_accuracy"] == pytest.approx(75)
    # Robust over all of D, images of the target class included: 1, 3, 4, 5.
    assert four["robust_accuracy"] == pytest.approx(50)
    # One seed and one goal: Wilson's interval of 6 and of 4 of the 8 images.
    for rate, count in (("clean_accuracy", 6), ("robust_accuracy", 4)):
        bounds = [four[f"{rate}_low"], four[f"{rate}_high"]]
        assert bounds == pytest.approx([100 * bound for bound in wilson(count, 8)])
    assert (eight["n_eligible"], eight["n_fooled"], eight["n_hit"]) == (5, 3, 2)
    assert eight["asr"] == pytest.approx(60)
    assert eight["asr_control"] == 0
    # Right at 4 and at 8 bits: 0, 1, 3, 4, 6; without the target class: 0, 1, 6.
    assert (four["n_common"], four["n_common_fooled"]) == (3, 2)
    assert (eight["n_common"], eight["n_common_fooled"]) == (3, 2)
    assert four["asr_common"] == pytest.approx(200 / 3)
    assert four["transfer_ratio"] == pytest.approx(1)
    assert (four["area_percent"], four["n_images"], four["seeds"]) == (pytest.approx(100 * 25 / 256), 8, 1)
    assert np.isnan(four["asr_grey"])
    assert pd.isna(four["n_grey_fooled"])


def test_only_rows_without_a_white_box_cell_are_transfer_only(new_folder: NewFolder) -> None:
    frame = _board(_two_networks(new_folder))
    assert list(frame["transfer_only"]) == [False, True]


def test_transfer_ratio_needs_the_cell_on_the_source(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    folder.add(CLEAN4, {"1": (1, 0, 1, 1, 1, 1, 0, 0)}, target_bits="4", source_bits="8")
    frame = _board(folder)
    assert math.isnan(frame["transfer_ratio"][0])
    assert math.isnan(frame["asr_control"][0])
    assert math.isnan(frame["asr_net"][0])
    assert frame["checks"][0] == "ok"  # V2 did not run


def test_untargeted_identity_and_no_targeted_rate(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    folder.add(CLEAN4, {"untargeted": (1, 0, 0, 1, 0, 1, 0, 2)}, goal_kind="untargeted")
    row = _board(folder).iloc[0]
    assert (row["n_eligible"], row["n_fooled"], row["n_hit"]) == (6, 3, 0)
    assert row["robust_accuracy"] == pytest.approx(row["clean_accuracy"] * (1 - row["asr"] / 100))
    assert math.isnan(row["asr_targeted"])


def test_seeds_are_summed_and_the_comparison_is_per_seed(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    folder.add(CLEAN4, {"1": (1, 0, 1, 1, 1, 1, 0, 0)}, seed=0)
    folder.add(CLEAN8, {"1": (1, 1, 0, 1, 0, 1, 2, 0)}, seed=1)
    row = _board(folder).iloc[0]
    assert (row["seeds"], row["n_images"], row["n_eligible"], row["n_fooled"], row["n_clean_correct"]) == (
        2,
        8,
        8,
        5,
        13,
    )
    assert row["asr"] == pytest.approx(100 * 5 / 8)
    assert row["clean_accuracy"] == pytest.approx(100 * 13 / 16)
    # Right without a patch at the two seeds, and with it: a bootstrap over seeds and images.
    clean = np.array([[(1, 1, 0, 1, 1, 1, 1, 0)], [(1, 1, 1, 1, 1, 0, 1, 1)]], bool)
    robust = np.array([[(0, 1, 0, 1, 1, 1, 0, 0)], [(0, 0, 1, 1, 0, 0, 1, 0)]], bool)
    assert row["robust_accuracy"] == pytest.approx(100 * 7 / 16)
    for rate, right in (("clean_accuracy", clean), ("robust_accuracy", robust)):
        expected = cluster_bootstrap_rate(right, np.ones_like(right))
        assert (row[f"{rate}_low"], row[f"{rate}_high"]) == pytest.approx([100 * bound for bound in expected])
        assert row[f"{rate}_low"] < row[rate] < row[f"{rate}_high"]
    # Each seed has one network, so all that it classifies correctly is common.
    assert row["n_common"] == 8


def test_collapsed_networks_leave_the_comparison(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    wrong = tuple((label + 1) % 3 for label in LABELS[:-1]) + (2,)
    folder.add(CLEAN8, {"1": (1, 1, 0, 1, 0, 1, 2, 0)}, target_bits="8")
    folder.add(wrong, {"1": wrong}, [Check(id="V6", verdict="fail", message="at chance")], target_bits="2")
    eight, two = (row for _, row in _board(folder).iterrows())
    assert eight["n_common"] == eight["n_eligible"] == 5
    assert math.isnan(two["asr_common"])
    assert two["checks"] == "fail V6"
    assert pd.isna(two["rank"])
    assert not pd.isna(eight["rank"])


def test_nothing_eligible_gives_no_rate(new_folder: NewFolder) -> None:
    folder = new_folder((1, 1, 1))
    folder.add((1, 1, 0), {"1": (0, 0, 0)})
    row = _board(folder).iloc[0]
    assert row["n_eligible"] == 0
    assert math.isnan(row["asr"])
    assert math.isnan(row["asr_low"])
    assert pd.isna(row["rank"])
    assert row["robust_accuracy"] == 0


def test_worst_counts_an_image_that_any_source_fools(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    folder.add(CLEAN8, {"1": (1, 0, 0, 1, 1, 0, 2, 2)}, target_bits="8")
    folder.add(CLEAN8, {"1": (0, 1, 0, 1, 1, 0, 2, 2)}, target_bits="8", source_bits="4")
    frame = _board(folder)
    assert list(frame["asr"]) == pytest.approx([20, 20])
    assert list(frame["asr_worst"]) == pytest.approx([40, 40])
    assert list(frame["n_worst_fooled"]) == [2, 2]


def test_error_rows_stay_and_have_no_numbers(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    folder.add(CLEAN8, {"1": (1, 1, 0, 1, 0, 1, 2, 0)}, seed=0)
    folder.fail("boom", seed=1)
    folder.fail("boom", seed=0, attack="gap")
    gap, lavan = (row for _, row in _board(folder).iterrows())
    assert (gap["status"], lavan["status"]) == ("error", "1 of 2 seeds failed")
    assert math.isnan(gap["asr"])
    assert pd.isna(gap["n_eligible"])
    assert lavan["asr"] == pytest.approx(60)
    assert pd.isna(gap["rank"])
    assert pd.isna(lavan["rank"])


def test_a_listed_control_is_a_row_and_serves_as_control(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS)
    folder.add(CLEAN4, {"1": (1, 0, 1, 1, 1, 1, 0, 0)})
    folder.add(CLEAN4, {"1": (2, 0, 1, 1, 1, 1, 2, 0)}, attack="random")
    frame = _board(folder)
    assert list(frame["attack"]) == ["lavan", "random"]
    assert list(frame["asr_control"]) == pytest.approx([100 / 3, 100 / 3])
    assert frame["asr_net"][1] == 0
    assert not frame["transfer_only"][1]
    assert "V2" not in frame["checks"][1]


def test_columns_are_the_promised_ones(new_folder: NewFolder) -> None:
    promised = [
        "dataset",
        "model",
        "defense",
        "preprocessor",
        "quantization",
        "attack",
        "patch_height",
        "patch_width",
        "area_percent",
        "source_model",
        "source_defense",
        "source_quantization",
        "source_bits",
        "target_bits",
        "seen",
        "seeds",
        "n_images",
        "n_eligible",
        "asr",
        "asr_low",
        "asr_high",
        "asr_targeted",
        "asr_common",
        "asr_control",
        "asr_net",
        "clean_accuracy",
        "robust_accuracy",
        "lineage",
        "checks",
        "partial",
    ]
    assert list(COLUMNS[: len(promised)]) == promised
    assert tuple(_board(_two_networks(new_folder)).columns) == COLUMNS


def test_identities_name_the_cell() -> None:
    with pytest.raises(AssertionError, match="cell abc, goal 3: asr_targeted exceeds asr: 5 hits among 4"):
        assert_identities("abc", 10, [GoalCounts(goal="3", n_eligible=9, n_fooled=4, n_hit=5, n_robust=5)])
    with pytest.raises(AssertionError, match="cell abc, untargeted: robust_accuracy"):
        assert_identities("abc", 10, [GoalCounts(goal="untargeted", n_eligible=10, n_fooled=4, n_hit=0, n_robust=5)])
    assert_identities("abc", 10, [GoalCounts(goal="untargeted", n_eligible=10, n_fooled=4, n_hit=0, n_robust=6)])


def test_records_and_outcomes_must_agree(new_folder: NewFolder) -> None:
    folder = _two_networks(new_folder)
    first = folder.cells[0]
    folder.cells[0] = first.model_copy(update={"n_clean_correct": 5})
    with pytest.raises(ArtifactError, match=f"cell {first.cell}: its counts are not those of its outcomes"):
        _board(folder)


def test_missing_outcomes_name_the_cell(new_folder: NewFolder) -> None:
    folder = _two_networks(new_folder)
    del folder.outcomes[folder.cells[0].cell]
    with pytest.raises(ArtifactError, match=f"expected outcomes of cell {folder.cells[0].cell}"):
        _board(folder)


def test_a_record_of_another_schema_is_refused(new_folder: NewFolder) -> None:
    folder = _two_networks(new_folder)
    folder.cells[0] = folder.cells[0].model_copy(update={"schema_version": 99})
    with pytest.raises(ArtifactError, match="expected schema version 1, found 99"):
        _board(folder)


def test_bits_are_sorted_as_numbers() -> None:
    assert sorted(["2", "16", "w4a8", "32", "", "8", "4", "w8a4"], key=bits_order) == [
        *("", "32", "16", "8", "w8a4", "w4a8", "4", "2")
    ]


def test_goals_are_read() -> None:
    assert (target_of("7"), target_of("untargeted")) == (7, -1)


def test_checks_are_merged_and_written() -> None:
    checks = [
        Check(id="V10", verdict="pass"),
        Check(id="V2", verdict="pass"),
        Check(id="V6", verdict="fail", message="seed 0"),
        Check(id="V6", verdict="fail", message="seed 1"),
        Check(id="V2", verdict="fail", message="weak"),
        Check(id="V3", verdict="warn"),
    ]
    merged = merged_checks(checks)
    assert [check.id for check in merged] == ["V2", "V3", "V6", "V10"]
    assert merged[2].message == "seed 0; seed 1"
    assert checks_text(merged) == "fail V2 V6; warn V3"
    assert checks_text([Check(id="V2", verdict="pass")]) == "ok"
    assert checks_text([Check(id="V2", verdict="not-run")]) == checks_text([]) == "not run"


def test_control_is_beaten_on_paired_images() -> None:
    eligible = np.ones((1, 1, 100), bool)
    strong, weak = np.zeros_like(eligible), np.zeros_like(eligible)
    strong[..., :20], weak[..., :8] = True, True
    assert beats_control(strong, weak, eligible).verdict == "pass"
    assert beats_control(weak, strong, eligible).verdict == "fail"
    same = beats_control(strong, strong, eligible)
    assert same.verdict == "fail"
    assert "fools 20 of 100, the random patch 20" in same.message
    assert beats_control(weak, strong, eligible, white_box=False).verdict == "warn"
    assert beats_control(strong, None, eligible).verdict == "not-run"
    assert beats_control(strong, weak, np.zeros_like(eligible)).verdict == "not-run"
    # Five more images are not enough for McNemar at 5 % (p = 0.0625); six are (p = 0.03125).
    five, six = np.zeros_like(eligible), np.zeros_like(eligible)
    five[..., :5], six[..., :6] = True, True
    nothing = np.zeros_like(eligible)
    assert [beats_control(each, nothing, eligible).verdict for each in (five, six)] == ["fail", "pass"]


def test_control_over_several_goals_uses_clusters() -> None:
    eligible = np.ones((1, 6, 100), bool)
    nothing, one_goal = np.zeros_like(eligible), np.zeros_like(eligible)
    one_goal[:, 0, :90] = True  # images alone would call this significant; goals do not
    every_goal = np.zeros_like(eligible)
    every_goal[:, :, :15] = True
    assert beats_control(one_goal, nothing, eligible).verdict == "fail"
    assert beats_control(every_goal, nothing, eligible).verdict == "pass"


def test_ranks_share_what_data_cannot_separate() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, 1000)
    own = np.random.default_rng(1).normal(0, 0.02, 1000)
    contestants = [
        Contestant(5, 0.50, 0.50 + noise),
        Contestant(6, 0.20, 0.20 + noise),
        Contestant(7, 0.21, 0.21 + own),  # not separable from row 6
        Contestant(8, 0.52, 0.52 + noise),  # always 0.02 above row 5: separable, because paired
    ]
    assert ranks(contestants) == {6: 1, 7: 1, 5: 3, 8: 4}


def test_a_chain_of_small_steps_is_no_tie() -> None:
    draws = np.random.default_rng(2).normal(0, 0.01, (5, 1000))
    rates = [0.10, 0.12, 0.14, 0.16, 0.18]
    given = ranks([Contestant(row, rate, rate + draws[row]) for row, rate in enumerate(rates)])
    assert given[0] == given[1] == 1
    assert given[4] > given[2] > 1


def test_ranks_compare_defenses_on_equal_terms(new_folder: NewFolder) -> None:
    labels = np.arange(300) % 3
    folder = new_folder(labels)
    for defense, fooled in (("none", 200), ("qat", 100), ("triqdef", 100)):
        patched = np.where(np.arange(300) < fooled, (labels + 1) % 3, labels)
        folder.add(labels, {"untargeted": patched}, defense=defense, goal_kind="untargeted")
    frame = _board(folder)
    assert dict(zip(frame["defense"], frame["rank"], strict=True)) == {"qat": 1, "triqdef": 1, "none": 3}


def test_what_a_mean_over_targets_hides(new_folder: NewFolder) -> None:
    """Two target classes and an untargeted patch, counted by hand."""
    folder = new_folder(LABELS)
    # Target 1, eligible 0, 1, 6: hit is 0. Target 2, eligible 0, 1, 3, 4, 5: hit are all but 5.
    folder.add(CLEAN4, {"1": (1, 0, 1, 1, 1, 1, 0, 0), "2": (2, 2, 1, 2, 2, 1, 2, 0)}, target_bits="4")
    # Untargeted at 8 bits, right without it are all but 5: fooled are 0, 1 (as 2), 3 (as 0), 6 (as 1), 7 (as 1).
    folder.add(CLEAN8, {"untargeted": (2, 2, 0, 0, 1, 1, 1, 1)}, target_bits="8")
    eight, four = _board(folder).iloc[0], _board(folder).iloc[1]
    assert (four["asr_targeted_best"], four["asr_targeted_least"]) == pytest.approx((80, 100 / 3))
    assert four["asr_targeted"] == pytest.approx(100 * 5 / 8)
    assert np.isnan(four["collapse"])
    assert eight["collapse"] == pytest.approx(100 * 2 / 5)
    assert np.isnan(eight["asr_targeted_best"])
