"""`qpatchbench verify`: what holds passes, and every change is named with where it is and what was expected."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file

from qpatchbench.suite.execution.export_patches import remove_other_patches, write_patch
from qpatchbench.suite.store.store import Artifact, Store
from qpatchbench.suite.verification.rebuilding import rebuilt
from tests.cli.conftest import CopyOf, TinyRuns
from tests.cli.running import ended

Change = Callable[[dict[str, Any]], None]
CLAIMED = 3  # nothing is wrong, but not everything was checked


def verified(
    runs: TinyRuns, folder: Path, *options: str, cache: Path | None = None, committed: bool = True
) -> tuple[int, str]:
    """Exit code and output; held against the suite file, unless nobody committed it."""
    suite = ("--suite", str(runs.root / "tiny.yaml"), "--seeds", "0") if committed else ()
    result = runs.invoke("verify", str(folder), *suite, *options, cache=cache)
    assert result.exception is None, result.exception
    return int(result.return_value), result.output


def change_row(path: Path, number: int, change: Change) -> dict[str, Any]:
    """Change a row of a parquet file; returns the row as it was."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    before = dict(rows[number])
    change(rows[number])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    return before


def forge(folder: Path, name: str) -> None:
    """Let the manifest name the hash that a changed file has now."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    if name in manifest["files"]:
        manifest["files"][name] = digest
    for entry in manifest["patches"]:
        if entry["file"] == name:
            entry["sha256"] = digest
    path.write_text(json.dumps(manifest))


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def test_a_run_as_it_was_written_holds(tiny_runs: TinyRuns) -> None:
    code, text = verified(tiny_runs, tiny_runs.first)
    assert code == 0
    assert text == (
        "numbers: every count, rate and hash is as it should be\n"
        "labels: every one is that of the suite\n"
        "  resnet20 qat fp@32, seed 0: 6 cells, equal\n"
        "  resnet20 qat qat@4, seed 0: 8 cells, equal\n"
        "predictions: 14 of 14 cells made again on 2 of 2 networks, 0 of 1344 predictions differ\n"
        "tolerance: the same device and torch: no prediction may differ\n"
    )


def test_a_run_folder_has_every_patch_as_a_file(tiny_runs: TinyRuns) -> None:
    manifest = manifest_of(tiny_runs.first)
    cells = pq.read_table(tiny_runs.first / "cells.parquet").to_pylist()
    assert {entry["patch"] for entry in manifest["patches"]} == {cell["patch"] for cell in cells}
    assert {entry["file"] for entry in manifest["patches"]} == {
        f"patches/{path.name}" for path in (tiny_runs.first / "patches").iterdir()
    }
    for entry in manifest["patches"]:
        stored = Store(tiny_runs.cache).read("craft", entry["key"])
        written = load_file(tiny_runs.first / entry["file"])
        assert written.pop("history").tolist() == stored.facts["history"]
        assert {name: array.tolist() for name, array in written.items()} == {
            name: array.tolist() for name, array in stored.arrays.items()
        }
    searched = next(entry for entry in manifest["patches"] if entry["attack"]["name"] == "sparse_rs")
    assert "queries" in load_file(tiny_runs.first / searched["file"])


def test_patch_files_are_the_same_bytes_whenever_they_are_written(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    manifest, store = manifest_of(tiny_runs.first), Store(tiny_runs.cache)
    entries = {entry["key"]: entry for entry in manifest["patches"]}
    run = rebuilt(tiny_runs.first, manifest, tiny_runs.cache, tmp_path, torch.device("cpu"))
    for job in {cell.patch.key: cell.patch for cell in run.cells}.values():
        assert write_patch(store.read(job.kind, job.key), job, tmp_path) == entries.pop(job.key)
    assert entries == {}
    written = {f"patches/{path.name}" for path in (tmp_path / "patches").iterdir()}
    assert all((tmp_path / name).read_bytes() == (tiny_runs.first / name).read_bytes() for name in written)
    removed, *kept = sorted(written)
    (tmp_path / "patches" / "mine.safetensors").write_bytes(b"a user's own")
    remove_other_patches(tmp_path, {*kept}, written)
    assert not (tmp_path / removed).exists()
    assert (tmp_path / "patches" / "mine.safetensors").read_bytes() == b"a user's own"
    assert all((tmp_path / name).is_file() for name in kept)


def test_a_changed_number_of_the_leaderboard_is_named(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    path = folder / "leaderboard.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    was = rows[2]["asr"]
    rows[2]["asr"] = "99.0000"
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(buffer.getvalue())
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert text == (
        "numbers: 1 thing wrong\n"
        f"  - leaderboard.csv, row 3 (lavan from 32 on resnet20 qat qat@4), column asr: expected {was}, computed from "
        "the outcomes, found 99.0000\n"
        "labels: every one is that of the suite\n"
        "predictions: not made again, as asked for\n"
        "claimed, not checked:\n"
        "  - the images of examples.safetensors\n"
        "  - its images, their names and their classes, of which manifest.json has hashes\n"
        "  - predictions, and the checks of networks and patches\n"
    )


@pytest.mark.parametrize("forged", [False, True])
def test_a_changed_count_is_named(tiny_runs: TinyRuns, copy_of: CopyOf, forged: bool) -> None:
    folder = copy_of(tiny_runs.first)

    def change(row: dict[str, Any]) -> None:
        counts = json.loads(row["counts"])
        counts[1]["n_fooled"] += 1
        row["counts"] = json.dumps(counts)

    before = change_row(folder / "cells.parquet", 0, change)
    counted = json.loads(before["counts"])[1]["n_fooled"]
    if forged:
        forge(folder, "cells.parquet")
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert (
        f"  - cells.parquet, row 0 (cell {before['cell']}): goal 1: n_fooled: expected {counted}, counted from "
        f"outcomes.parquet, found {counted + 1}\n"
    ) in text
    assert ("cells.parquet: expected SHA-256 " in text) is not forged


def test_changed_totals_queries_and_clean_counts_are_named(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    cells = pq.read_table(folder / "cells.parquet").to_pylist()
    searched = next(number for number, cell in enumerate(cells) if cell["attack"] == "sparse_rs")

    def change(row: dict[str, Any]) -> None:
        row["n_hit"] = 77
        row["queries_median"] = 2.25

    change_row(folder / "cells.parquet", searched, change)
    manifest = manifest_of(folder)
    right = manifest["networks"][0]["n_clean_correct"]
    manifest["networks"][0]["n_clean_correct"] = 5
    (folder / "manifest.json").write_text(json.dumps(manifest))
    _, text = verified(tiny_runs, folder, "--numbers-only")
    where = f"cells.parquet, row {searched} (cell {cells[searched]['cell']})"
    assert f"{where}: n_hit: expected 0, counted from outcomes.parquet, found 77\n" in text
    median = cells[searched]["queries_median"]
    assert f"{where}: queries_median: expected {median}, counted from outcomes.parquet, found 2.25\n" in text
    network = manifest["networks"][0]
    assert (
        f"manifest.json, network {network['network']} ({network['label']}): n_clean_correct: expected {right}, "
        "counted from outcomes.parquet, found 5\n"
    ) in text


def wrong_answer(folder: Path) -> tuple[int, dict[str, Any], int]:
    """A row of an untargeted control whose patched prediction is wrong: another wrong one changes no number."""
    controls = {cell["cell"] for cell in pq.read_table(folder / "cells.parquet").to_pylist() if cell["control"]}
    rows = pq.read_table(folder / "outcomes.parquet").to_pylist()
    for number, row in enumerate(rows):
        misled = row["cell"] in controls and row["patched_prediction"] != row["label"]
        if misled and row["goal"] == "untargeted":
            (other,) = {0, 1, 2} - {row["label"], row["patched_prediction"]}
            return number, row, other
    raise AssertionError("expected an image that is misclassified under an untargeted control")


def test_a_changed_outcome_is_named(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    number, row, _ = wrong_answer(folder)
    change_row(folder / "outcomes.parquet", number, lambda row: row.update(patched_prediction=row["label"]))
    code, text = verified(tiny_runs, folder)
    assert code == 1
    assert "  - outcomes.parquet: expected SHA-256 " in text
    where = rf"cells.parquet, row \d+ \(cell {row['cell']}\): goal untargeted: n_robust: expected (\d+), counted"
    assert re.search(where, text)
    assert (
        f"1 of 48 predictions differ: image {row['image']}, goal untargeted: expected class "
        f"{row['patched_prediction']}, found {row['label']}; fooled "
    ) in text


def test_an_outcome_that_changes_no_count_is_found_by_its_hash_or_by_predicting_again(
    tiny_runs: TinyRuns, copy_of: CopyOf
) -> None:
    folder = copy_of(tiny_runs.first)
    number, row, other = wrong_answer(folder)
    change_row(folder / "outcomes.parquet", number, lambda row: row.update(patched_prediction=other))
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert text.startswith("numbers: 1 thing wrong\n  - outcomes.parquet: expected SHA-256 ")
    forge(folder, "outcomes.parquet")
    assert verified(tiny_runs, folder, "--numbers-only")[0] == CLAIMED
    code, text = verified(tiny_runs, folder)
    assert code == 1
    expected = f"goal untargeted: expected class {row['patched_prediction']}, found {other}; fooled "
    assert f"  - outcomes.parquet, cell {row['cell']} (" in text
    assert f"1 of 48 predictions differ: image {row['image']}, {expected}" in text
    assert "1 of 1344 predictions differ, 1 thing wrong\n" in text


def test_a_changed_place_is_found_by_predicting_again(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    row = change_row(folder / "outcomes.parquet", 0, lambda row: row.update(row=row["row"] + 1))
    forge(folder, "outcomes.parquet")
    code, text = verified(tiny_runs, folder)
    assert code == 1
    expected = f"row: expected {row['row']}, where the suite places the patch, found {row['row'] + 1}\n"
    assert f"image {row['image']}: {expected}" in text


def test_a_changed_patch_is_named_and_predicts_something_else(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    entry = next(each for each in manifest_of(folder)["patches"] if each["attack"]["name"] == "sparse_rs")
    path = folder / entry["file"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    found = hashlib.sha256(data).hexdigest()
    assert text.startswith(
        f"numbers: 1 thing wrong\n  - {entry['file']}: expected SHA-256 {entry['sha256'][:16]}..., named by "
        f"manifest.json, found {found[:16]}...\n"
    )
    arrays = load_file(path)
    arrays["textures"] = 255 - arrays["textures"]
    save_file(arrays, path, metadata={"goals": '["untargeted"]'})
    forge(folder, entry["file"])
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert f"examples.safetensors: expected patch {entry['patch']} as its file has it, found another\n" in text
    code, text = verified(tiny_runs, folder)
    assert code == 1
    assert re.search(rf"\({entry['label'].partition(',')[0]}.*\d+ of 48 predictions differ: image ", text)


def test_a_patch_of_another_size_is_named(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    entry = next(each for each in manifest_of(folder)["patches"] if each["attack"]["name"] == "lavan")
    arrays = load_file(folder / entry["file"])
    arrays["textures"] = np.zeros((3, 3, 5, 5), np.uint8)
    save_file(arrays, folder / entry["file"], metadata={"goals": '["0", "1", "2"]'})
    forge(folder, entry["file"])
    _, text = verified(tiny_runs, folder, "--numbers-only")
    assert f"{entry['file']}: expected textures uint8 (3, 3, 4, 4), as cell " in text
    assert " states, found uint8 (3, 3, 5, 5)\n" in text


def test_other_weights_are_named_and_not_predicted_with(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(tiny_runs.cache, cache)
    store = Store(cache)
    (entry,) = manifest_of(tiny_runs.first)["checkpoints"]
    stored = store.read("train", entry["key"])
    name = next(name for name in stored.arrays if name.endswith("weight"))
    store.write("train", entry["key"], Artifact({**stored.arrays, name: -stored.arrays[name]}, stored.facts))
    code, text = verified(tiny_runs, tiny_runs.first, "--cache", str(cache))
    assert code == 1
    assert (
        f"  - checkpoint {entry['checkpoint']} ({entry['label']}): expected SHA-256 {entry['sha256'][:16]}..., named "
        "by manifest.json, found "
    ) in text
    assert "predictions: 0 of 14 cells made again on 0 of 2 networks" in text
    path = store.path("train", entry["key"])
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    code, text = verified(tiny_runs, tiny_runs.first, "--cache", str(cache))
    assert code == 1
    assert "damaged train artifact" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("leaderboard.csv", "leaderboard.csv: expected the leaderboard, found none"),
        ("cells.parquet", "cells.parquet: expected a file, since manifest.json names it, found none"),
        ("outcomes.parquet", "outcomes.parquet: expected a file, since manifest.json names it, found none"),
        ("patches", "safetensors: expected a file, since manifest.json names it, found none"),
    ],
)
def test_a_missing_file_is_named(tiny_runs: TinyRuns, copy_of: CopyOf, name: str, message: str) -> None:
    folder = copy_of(tiny_runs.first)
    if name == "patches":
        shutil.rmtree(folder / name)
    else:
        (folder / name).unlink()
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert f"{message}\n" in text


def test_a_dropped_cell_is_named(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    table = pq.read_table(folder / "cells.parquet")
    dropped = table["cell"][0].as_py()
    pq.write_table(table.slice(1), folder / "cells.parquet")
    forge(folder, "cells.parquet")
    manifest = manifest_of(folder)
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert f"cells.parquet: expected the cell {dropped}, which manifest.json lists, found none\n" in text
    manifest["jobs"] = [job for job in manifest["jobs"] if job["key"][:16] != dropped]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    _, text = verified(tiny_runs, folder)
    assert f"cells.parquet: expected the cell {dropped} (lavan 4x4 on " in text
    assert "which the suite asks for, found none\n" in text


def test_a_changed_suite_is_another_experiment(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = manifest_of(folder)
    manifest["resolved"]["attacks"][0]["steps"] = 1000
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    named = f"as {tiny_runs.root / 'tiny.yaml'} says it"
    assert f"manifest.json, resolved.attacks[0].steps: expected '12', found '1000', {named}\n" in text
    code, text = verified(tiny_runs, folder, committed=False)
    assert code == 1
    assert "manifest.json, typed: expected what resolved spells out, found another suite: attacks[0].steps: " in text
    assert "expected a cell of the suite, found one that it does not ask for: " in text


def test_pages_of_another_revision_are_claims(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(tiny_runs.first, folder)
    page = folder / "report.html"
    page.write_text(page.read_text() + "<!-- another style -->\n")
    facts = json.loads((folder / ".report.json").read_text())
    facts["files"]["report.html"] = hashlib.sha256(page.read_bytes()).hexdigest()
    (folder / ".report.json").write_text(json.dumps(facts))
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert "report.html, line " in text
    manifest = manifest_of(folder)
    manifest["git"] = {"revision": "e" * 40, "dirty": False}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    facts["files"]["manifest.json"] = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    (folder / ".report.json").write_text(json.dumps(facts))
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert "  - report.html, which another revision wrote\n" in text
    assert code == CLAIMED, text


def test_other_hardware_is_told_with_its_tolerance(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = manifest_of(folder)
    for job in manifest["jobs"]:
        job["device"] = "an abacus"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    number, row, other = wrong_answer(folder)
    change_row(folder / "outcomes.parquet", number, lambda row: row.update(patched_prediction=other))
    forge(folder, "outcomes.parquet")
    code, text = verified(tiny_runs, folder)
    assert code == CLAIMED
    assert f"  - accepted: outcomes.parquet, cell {row['cell']} " in text
    assert ": 1 of 48 predictions differ: image " in text
    assert (
        "tolerance: another device or torch: near-ties may flip, at most 0.5 % of a cell's predictions (or one), and "
        "the number of fooled images must stay inside its 95 % interval\nclaimed, not checked:\n"
        "  - times and devices of 25 of 25 jobs\n"
    ) in text
    assert "  - the checks of 14 cells, of another machine or of networks that are not at hand\n" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(checkpoints=[]), "none of the 0 checkpoints is in "),
        (lambda m: m["resolved"]["attacks"][0].update(name="lavn"), "unknown attack 'lavn'. Did you mean: lavan?"),
        (lambda m: m["resolved"]["dataset"].update(split_seed=5), "split as it says, were never read into "),
        (lambda m: m.pop("resolved"), "the manifest has no resolved suite"),
    ],
)
def test_what_is_not_at_hand_is_told(tiny_runs: TinyRuns, copy_of: CopyOf, change: Change, message: str) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = manifest_of(folder)
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, text = verified(tiny_runs, folder, committed=False)
    assert code == (CLAIMED if "labels: not compared: " in text else 1)
    (line,) = [line for line in text.splitlines() if line.startswith("predictions: ")]
    assert line.startswith("predictions: not made again: ")
    assert message in line


def test_without_checkpoints_the_numbers_are_verified_alone(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    code, text = verified(tiny_runs, tiny_runs.first, "--cache", str(tmp_path / "empty"))
    assert code == CLAIMED
    assert (
        "labels: every one is that of the suite\n"
        f"predictions: not made again: none of the 1 checkpoints is in {tmp_path / 'empty'}\n"
        "claimed, not checked:\n"
    ) in text
    assert "  - times and devices of 25 of 25 jobs\n" in text
    assert text.endswith("  - predictions, and the checks of networks and patches\n")


def test_a_folder_of_an_earlier_version_says_so(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = manifest_of(folder)
    del manifest["files"], manifest["patches"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(folder / "patches")
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert "manifest.json: expected the hashes of files and patches, found none: an earlier version wrote this" in text


def test_a_manifest_cannot_name_files_elsewhere(tiny_runs: TinyRuns, copy_of: CopyOf) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = manifest_of(folder)
    manifest["files"]["../secret"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert "manifest.json: expected files of this folder, found ../secret\n" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "error: run: expected a run folder or an entry with manifest.json, found no such folder"),
        ("", "error: run/manifest.json: expected JSON: "),
        ("[]", "error: run/manifest.json: expected a JSON object, found list"),
    ],
)
def test_what_is_no_run_ends_with_2(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "manifest.json").write_text(content)
    done = ended("verify", "run", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(message)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
