"""Forged results, the hashes forged along with them, against `qpatchbench verify` with the true checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qpatchbench.runs.records import Check
from qpatchbench.suite.jobs.pipeline import DeployJob
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.verification import rebuilding
from qpatchbench.suite.work.deploy import deployed
from qpatchbench.suite.work.workbench import Workbench
from tests.cli.conftest import SUITE, CopyOf, TinyRuns
from tests.cli.forging import (
    FORGERIES,
    Forgery,
    a_file_more,
    dropped_images,
    each_outcome,
    failed_without_a_trace,
    hidden_cell,
    patches_with,
    reported,
    rows_of,
    second_column,
    text_changed,
    told,
    with_checks,
)
from tests.cli.test_verify import CLAIMED, manifest_of, verified

# What nobody can compute again is told: it is not found to be wrong.
TOLD = {
    *("a cell that failed, without a trace", "another revision", "another device", "another machine", "another torch"),
    *("a mixed run", "components from outside", "other times", "other devices of jobs", "committed code"),
    "a table that nobody made",
}
# Found where no other row needs the images that the cell left behind, and told in any case.
FOUND_OR_TOLD = {"a cell that failed, but for its images"}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(tiny_runs: TinyRuns, copy_of: CopyOf, name: str) -> None:
    folder = copy_of(tiny_runs.first)
    FORGERIES[name](folder)
    code, text = verified(tiny_runs, folder, "--numbers-only")
    if code != 1:  # what numbers and labels do not tell, predictions and checks do
        code, text = verified(tiny_runs, folder)
    if name in FOUND_OR_TOLD:
        assert code in (1, CLAIMED), text
    else:
        assert code == (CLAIMED if name in TOLD else 1), text


def test_a_cell_that_is_marked_as_failed_is_told(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    hidden_cell(folder)
    code, text = verified(tiny_runs, folder)
    assert code != 0
    assert "  - 1 cells that are marked as failed\n" in text


def test_an_exchanged_label_is_told_with_what_its_key_stands_for(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    cell = rows_of(folder)[0]["cell"]
    told(folder, defense="triqdef")
    _, text = verified(tiny_runs, folder)
    where = f"  - cells.parquet, cell {cell}: defense: "
    assert f"{where}expected 'qat', for which its key stands, found 'triqdef'\n" in text


def test_a_patch_is_crafted_anew(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    """What no prediction tells: a history that was improved."""
    code, text = verified(tiny_runs, tiny_runs.first, "--recraft", "9")
    assert code == 0
    assert text.count(": crafted anew, the same\n") == 4
    folder = copy_of(tiny_runs.first)
    FORGERIES["lower losses"](folder)
    code, text = verified(tiny_runs, folder, "--recraft", "1")
    assert code == 1
    assert "expected a history that ends at a loss of " in text
    entry = next(entry for entry in manifest_of(folder)["patches"] if entry["attack"]["name"] == "lavan")
    assert f"  - {entry['file']}: history: expected the losses of this very patch, found others\n" in text


def test_a_history_ends_near_the_loss_of_its_patch(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path) -> None:
    """With nothing but checkpoints: no cache remembers the crafting."""
    cache = tmp_path / "cache"
    shutil.copytree(tiny_runs.cache, cache, ignore=shutil.ignore_patterns("craft", "evaluate"))
    code, text = verified(tiny_runs, tiny_runs.first, cache=cache)
    assert code == CLAIMED
    assert "  - losses and passes of 8 patches (--recraft N crafts some anew)\n" in text
    folder = copy_of(tiny_runs.first)
    patches_with(lambda arrays: arrays.update(history=arrays["history"] - 9))(folder)
    code, text = verified(tiny_runs, folder, cache=cache)
    assert code == 1
    assert text.count("safetensors: history: expected it to end near ") == 2


def test_a_check_that_finds_more_than_the_record_says_is_told(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a stored failure was set to pass: here the check is what changes."""

    def found_out(bench: Workbench, job: DeployJob) -> Artifact:
        found = deployed(bench, job)
        others = [check for check in found.facts["checks"] if check["id"] != "V15"]
        return Artifact(
            found.arrays, {**found.facts, "checks": [*others, Check(id="V15", verdict="fail").model_dump()]}
        )

    monkeypatch.setattr(rebuilding, "deployed", found_out)
    code, text = verified(tiny_runs, tiny_runs.first)
    assert code == 1
    assert text.count(": check V15: expected fail, found pass\n") == 8
    assert text.count(": check V15: expected fail, found nothing\n") == 6


def test_forgeries_are_many() -> None:
    assert len(FORGERIES) >= 60
    assert FORGERIES.keys() > TOLD


@pytest.mark.parametrize(
    ("forged", "code"),
    [
        (each_outcome(lambda row: {"patched_prediction": row["label"]}), 1),
        (dropped_images, 1),
        (second_column, 1),
        (reported(with_checks(lambda checks: [])), CLAIMED),
        (failed_without_a_trace, CLAIMED),
    ],
)
def test_without_checkpoints(tiny_runs: TinyRuns, copy_of: CopyOf, tmp_path: Path, forged: Forgery, code: int) -> None:
    folder = copy_of(tiny_runs.first)
    forged(folder)
    found, text = verified(tiny_runs, folder, cache=tmp_path / "empty")
    assert found == code, text


def test_a_file_that_differs_is_told_with_its_first_line(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    text_changed("leaderboard.md", lambda text: text.replace("# tiny: leaderboard", "# tiny: a leaderboard"))(folder)
    _, text = verified(tiny_runs, folder, "--numbers-only")
    where = "  - leaderboard.md, line 1: expected '# tiny: leaderboard', as the records give it, "
    assert f"{where}found '# tiny: a leaderboard'\n" in text


def test_pictures_and_pages_are_drawn_again(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(tiny_runs.first, folder)
    picture = next((folder / "plots").glob("transfer_*.png"))
    picture.write_bytes(next((folder / "plots").glob("patches_*.png")).read_bytes())
    text_changed("report.html", lambda text: text.replace("lavan", "lavan+", 1))(folder)
    a_file_more("plots/transfer_perfect.png")(folder)
    a_file_more("README.md")(folder)
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    name = picture.relative_to(folder)
    assert f"  - {name}: expected the picture that the records give, found another one\n" in text
    assert f"  - .report.json: expected the hash of {name}, found another\n" in text
    assert "  - report.html, line " in text
    assert "  - plots/transfer_perfect.png: expected no such picture, since the records give none, found one\n" in text
    assert "claimed, not checked:\n  - README.md, which no run writes\n" in text


def test_a_whole_run_of_a_weaker_suite_is_found_by_the_committed_one(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    """What hurts most was excluded before the run: the folder is consistent, and only the suite tells."""
    suite = tmp_path / "tiny.yaml"
    suite.write_text(f"{SUITE}exclude: [{{attack: lavan, target_bits: 4}}]\n")
    output = tmp_path / "weaker"
    told_to = ("run", str(suite), "--output", str(output), "--seeds", "0", "--display", "none")
    assert tiny_runs.invoke(*told_to).return_value == 0
    code, text = verified(tiny_runs, output, "--numbers-only")
    assert code == 1
    assert f"resolved.exclude: expected 0 items, found 1, as {tiny_runs.root / 'tiny.yaml'} says it\n" in text
    code, text = verified(tiny_runs, output, committed=False)
    assert code == CLAIMED
    assert text.endswith(
        "claimed, not checked:\n"
        "  - that its suite is the one it is named after: --suite FILE holds it against the committed one\n"
    )
