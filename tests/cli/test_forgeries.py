"""Forged results, the hashes forged along with them, against `qpatchbench verify` with the true checkpoints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from qpatchbench.runs.records import Check
from qpatchbench.suite.jobs.pipeline import DeployJob
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.verification import rebuilding
from qpatchbench.suite.work.deploy import deployed
from qpatchbench.suite.work.workbench import Workbench
from tests.cli.conftest import CopyOf, TinyRuns
from tests.cli.test_verify import forge, manifest_of, verified

Forgery = Callable[[Path], None]


def rows_of(folder: Path, name: str = "cells.parquet") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / name).to_pylist()
    return rows


def written(folder: Path, rows: list[dict[str, Any]], name: str = "cells.parquet") -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_table(folder / name).schema), folder / name)
    forge(folder, name)


def told(folder: Path, **fields: object) -> None:
    """Every cell says something else of itself."""
    written(folder, [{**row, **fields} for row in rows_of(folder)])


def exchanged_bits(folder: Path) -> None:
    swap = {"4": "32", "32": "4"}
    rows = rows_of(folder)
    for row in rows:
        row["target_bits"] = swap[row["target_bits"]]
    written(folder, rows)


def hidden_cell(folder: Path) -> None:
    """The cell that hurts most is marked as failed."""
    rows = rows_of(folder)
    number = max(range(len(rows)), key=lambda index: rows[index]["n_fooled"])
    rows[number] |= {"status": "error", "error": "out of memory"}
    written(folder, rows)


def manifest_with(**fields: object) -> Forgery:
    def forged(folder: Path) -> None:
        (folder / "manifest.json").write_text(json.dumps({**manifest_of(folder), **fields}))

    return forged


def entries_with(part: str, **fields: object) -> Forgery:
    """Entries of a list of the manifest say something else."""

    def forged(folder: Path) -> None:
        manifest = manifest_of(folder)
        manifest[part] = [{**entry, **fields} for entry in manifest[part]]
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return forged


def excluded(folder: Path) -> None:
    manifest = manifest_of(folder)
    manifest["resolved"]["exclude"] = [{"attack": ["lavan"], "target_bits": [4]}]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def patches_with(change: Callable[[dict[str, np.ndarray]], None]) -> Forgery:
    def forged(folder: Path) -> None:
        for entry in manifest_of(folder)["patches"]:
            arrays = load_file(folder / entry["file"])
            change(arrays)
            save_file(arrays, folder / entry["file"], metadata={"goals": json.dumps(goals_of(folder, entry))})
            forge(folder, entry["file"])

    return forged


def goals_of(folder: Path, entry: dict[str, Any]) -> list[str]:
    row = next(row for row in rows_of(folder) if row["patch"] == entry["patch"])
    return [count["goal"] for count in json.loads(row["counts"])]


def invented_outcomes(folder: Path) -> None:
    """Every patched prediction is the label."""
    rows = rows_of(folder, "outcomes.parquet")
    written(folder, [{**row, "patched_prediction": row["label"]} for row in rows], "outcomes.parquet")


def dropped_images(folder: Path) -> None:
    rows = rows_of(folder, "outcomes.parquet")
    kept = [row for row in rows if row["patched_prediction"] == row["label"]]
    written(folder, kept, "outcomes.parquet")


def second_column(folder: Path) -> None:
    """A leaderboard with two columns asr, the second of which readers take."""
    path = folder / "leaderboard.csv"
    lines = list(csv.reader(path.read_text().splitlines()))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*lines[0], "asr"])
    writer.writerows([*line, "0.0000"] for line in lines[1:])
    path.write_text(buffer.getvalue())
    forge(folder, "leaderboard.csv")


FORGERIES: dict[str, Forgery] = {
    "exchanged bits": exchanged_bits,
    "another attack": lambda folder: told(folder, attack="gap"),
    "another defense": lambda folder: told(folder, defense="triqdef"),
    "another dataset": lambda folder: told(folder, dataset="cifar10"),
    "another model": lambda folder: told(folder, model="resnet56"),
    "another seed": lambda folder: told(folder, seed=7),
    "another lineage": lambda folder: told(folder, lineage="independent"),
    "another access": lambda folder: told(folder, access="scores"),
    "seen in training": lambda folder: told(folder, seen="seen"),
    "another size": lambda folder: told(folder, patch_height=2, patch_width=2),
    "another source": lambda folder: told(folder, source_defense="none"),
    "not a control": lambda folder: told(folder, control=False),
    "a cell less": lambda folder: written(folder, rows_of(folder)[1:]),
    "excluded cells": excluded,
    "another plan": manifest_with(plan="0" * 32),
    "another suite's name": manifest_with(suite="cifar_transfer"),
    "other seeds": manifest_with(seeds=[0, 1, 2]),
    "other class names": manifest_with(class_names=["a", "b", "c"]),
    "other counts of images": manifest_with(images={"train": 50_000}),
    "another label of jobs": entries_with("jobs", label="train resnet56"),
    "another defense of checkpoints": entries_with("checkpoints", defense={"name": "triqdef"}),
    "other steps of patches": entries_with("patches", attack={"name": "lavan", "steps": 1000}),
    "other bits of networks": entries_with("networks", bits="2"),
    "transparent patches": patches_with(lambda arrays: arrays.update(masks=np.zeros_like(arrays["masks"]))),
    "grey patches": patches_with(lambda arrays: arrays.update(textures=np.full_like(arrays["textures"], 128))),
    "invented outcomes": invented_outcomes,
    "dropped images": dropped_images,
    "two columns asr": second_column,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(tiny_runs: TinyRuns, copy_of: CopyOf, name: str) -> None:
    folder = copy_of(tiny_runs.first)
    FORGERIES[name](folder)
    code, text = verified(tiny_runs, folder)
    assert code == 1, text


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
    patches_with(lambda arrays: arrays.update(history=arrays["history"] - 5))(folder)
    code, text = verified(tiny_runs, folder, "--recraft", "1")
    assert code == 1
    assert "expected a history that ends at a loss of " in text


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
