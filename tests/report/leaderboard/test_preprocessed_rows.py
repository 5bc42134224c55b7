"""Rows of a network behind a preprocessor: told apart by what stood before the source, compared among their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import pytest

from qpatchbench.report.figures.asr_by_bits import curve_pages
from qpatchbench.report.figures.transfer import heatmap, heatmaps
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.page.tables import markdown
from qpatchbench.runs.run import Run

NewFolder = Callable[..., Any]

#         image  0  1  2  3  4  5  6  7
LABELS = (0, 0, 0, 0, 2, 2, 2, 2)
BARE = (0, 0, 0, 0, 2, 2, 2, 0)  # wrong: 7
SMOOTH = (0, 0, 0, 1, 2, 2, 1, 2)  # wrong: 3 and 6
BEHIND: Mapping[str, Any] = {"preprocessor": "lgs", "network": "behind"}
FLOAT: Mapping[str, Any] = {"target_bits": "32", "quantization": "fp"}


def _leaderboard(new_folder: NewFolder) -> Leaderboard:
    """A float network, bare and behind lgs; a patch made on it, and one made through lgs."""
    folder = new_folder(LABELS)
    folder.add(BARE, {"1": (1, 1, 1, 0, 1, 2, 2, 0)}, **FLOAT, cell="1", patch="plain", network="bare")
    folder.add(
        SMOOTH, {"1": (1, 0, 0, 1, 2, 2, 1, 2)}, **FLOAT, **BEHIND, cell="2", patch="plain", lineage="shared-weights"
    )
    folder.add(
        SMOOTH, {"1": (1, 1, 1, 1, 1, 1, 1, 2)}, **FLOAT, **BEHIND, cell="3", patch="own", source_preprocessor="lgs"
    )
    return Leaderboard(Run(folder.write()))


def _board(new_folder: NewFolder) -> pd.DataFrame:
    return _leaderboard(new_folder).frame


def test_equal_bits_are_two_rows_where_what_stood_before_the_source_differs(new_folder: NewFolder) -> None:
    frame = _board(new_folder)
    assert list(zip(frame["preprocessor"], frame["source_preprocessor"], frame["n_fooled"], strict=True)) == [
        ("lgs", "lgs", 5),
        ("lgs", "none", 1),
        ("none", "none", 4),
    ]
    assert set(frame["seeds"]) == {1}
    assert not frame["transfer_only"].any()


def test_common_images_of_bare_rows_are_not_cut_by_a_preprocessor(new_folder: NewFolder) -> None:
    frame = _board(new_folder).set_index(["preprocessor", "source_preprocessor"])
    assert frame["n_common"].to_dict() == {("lgs", "lgs"): 6, ("lgs", "none"): 6, ("none", "none"): 7}


def test_a_transferred_patch_is_held_against_its_own_source(new_folder: NewFolder) -> None:
    frame = _board(new_folder).set_index(["preprocessor", "source_preprocessor"])
    # On the images 0, 1, 2, 4, 5, right on both: 1 of 5 behind lgs, 4 of 5 on the bare network.
    assert frame["transfer_ratio"].to_dict()[("lgs", "none")] == pytest.approx((1 / 5) / (4 / 5))
    assert frame["transfer_ratio"].to_dict()[("lgs", "lgs")] == pytest.approx(1)


def test_white_box_rows_are_ranked_with_white_box_rows(new_folder: NewFolder) -> None:
    folder = new_folder(LABELS * 10)
    clean = LABELS * 10
    own, adaptive = (1, 1, 0, 0, 1, 1, 2, 2) * 10, (1, 0, 0, 0, 1, 2, 2, 2) * 10
    plain = (0, 0, 0, 0, 1, 2, 2, 2) * 10
    folder.add(clean, {"1": own}, **FLOAT, cell="1", patch="plain", network="bare")
    folder.add(clean, {"1": clean}, **FLOAT, cell="4", network="bare", attack="random", control=True)
    folder.add(clean, {"1": clean}, **FLOAT, **BEHIND, cell="5", attack="random", control=True)
    folder.add(clean, {"1": adaptive}, **FLOAT, **BEHIND, cell="3", patch="own", source_preprocessor="lgs")
    folder.add(clean, {"1": plain}, **FLOAT, **BEHIND, cell="2", patch="plain", lineage="shared-weights")
    frame = Leaderboard(Run(folder.write())).frame.set_index(["preprocessor", "source_preprocessor"])
    assert frame["rank"].to_dict() == {("lgs", "lgs"): 1, ("lgs", "none"): 1, ("none", "none"): 2}


def test_tables_and_pictures_name_it(new_folder: NewFolder) -> None:
    rows = _leaderboard(new_folder).rows
    text = markdown(rows, "board", ())
    assert "| resnet20 | qat + lgs | fp | lavan | 5x5 | fp@32 + lgs | 32 |" in text
    assert "| resnet20 | qat + lgs | fp | lavan | 5x5 | fp@32 | 32 |" in text
    drawn = {found.rows[0].preprocessor: (heatmap(found), len(found.rows)) for found in heatmaps(rows)}
    assert {name: count for name, (_, count) in drawn.items()} == {"none": 1, "lgs": 2}
    assert drawn["lgs"][0].name == "transfer_cifar10-jpeg_resnet20_qat_lgs_fp_lavan_5x5"
    shown = {page.name: [len(panel.rows) for panel in page.panels] for page in curve_pages(rows)}
    assert shown == {"bits_cifar10-jpeg_5x5_white-box": [1, 1], "bits_cifar10-jpeg_5x5_from-32-bits": [1, 1]}
