"""Forgeries of a finished run of the tiny suite, the hashes forged along: each changes one thing for the better."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from qpatchbench.report.page.build import build
from tests.cli.forged_examples import examples_with, first_only, shown_by_others
from tests.cli.test_verify import forge, manifest_of

Forgery = Callable[[Path], None]
Row = dict[str, Any]
CELLS, OUTCOMES = "cells.parquet", "outcomes.parquet"


def rows_of(folder: Path, name: str = CELLS) -> list[Row]:
    rows: list[Row] = pq.read_table(folder / name).to_pylist()
    return rows


def written(folder: Path, rows: list[Row], name: str = CELLS) -> None:
    schema = None if name == CELLS else pq.read_table(folder / name).schema
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / name)
    forge(folder, name)


def reported(forgery: Forgery) -> Forgery:
    """The tables written again after a forgery, as `qpatchbench report` writes them."""

    def forged(folder: Path) -> None:
        forgery(folder)
        build(folder, ("csv", "md", "tex"))

    return forged


def told(folder: Path, **fields: object) -> None:
    """Every cell says something else of itself."""
    written(folder, [{**row, **fields} for row in rows_of(folder)])


def each_cell(change: Callable[[Row], Row]) -> Forgery:
    return lambda folder: written(folder, [{**row, **change(row)} for row in rows_of(folder)])


def each_outcome(change: Callable[[Row], Row]) -> Forgery:
    return lambda folder: written(folder, [{**row, **change(row)} for row in rows_of(folder, OUTCOMES)], OUTCOMES)


def all_cells(**fields: object) -> Forgery:
    return lambda folder: told(folder, **fields)


def with_checks(change: Callable[[list[Row]], list[Row]]) -> Forgery:
    return each_cell(lambda row: {"checks": json.dumps(change(json.loads(row["checks"])))})


def exchanged(name: str, one: str, other: str) -> Forgery:
    swap = {one: other, other: one}
    return each_cell(lambda row: {name: swap.get(row[name], row[name])})


def extra_column(name: str) -> Forgery:
    """A column that no run writes, in a table of records."""

    def forged(folder: Path) -> None:
        table = pq.read_table(folder / name)
        pq.write_table(table.append_column("asr", pa.array(np.zeros(table.num_rows))), folder / name)
        forge(folder, name)

    return forged


def hidden_cell(folder: Path) -> None:
    """The cell that hurts most is marked as failed."""
    rows = rows_of(folder)
    number = max(range(len(rows)), key=lambda index: rows[index]["n_fooled"])
    rows[number] |= {"status": "error", "error": "out of memory"}
    written(folder, rows)


def manifest_changed(change: Callable[[Row], object]) -> Forgery:
    def forged(folder: Path) -> None:
        manifest = manifest_of(folder)
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return forged


def manifest_with(**fields: object) -> Forgery:
    return manifest_changed(lambda manifest: manifest.update(fields))


def entries_with(part: str, **fields: object) -> Forgery:
    """Entries of a list of the manifest say something else."""
    return manifest_changed(lambda manifest: manifest.update({part: [{**entry, **fields} for entry in manifest[part]]}))


def patches_with(change: Callable[[dict[str, np.ndarray[Any, Any]]], object]) -> Forgery:
    def forged(folder: Path) -> None:
        for entry in manifest_of(folder)["patches"]:
            arrays = load_file(folder / entry["file"])
            change(arrays)
            save_file(arrays, folder / entry["file"], metadata={"goals": json.dumps(goals_of(folder, entry))})
            forge(folder, entry["file"])

    return forged


def controls_with(change: Callable[[dict[str, np.ndarray[Any, Any]]], object]) -> Forgery:
    """Only the patches that nobody crafted, which a reader takes as what any patch does."""
    crafted = {"lavan", "sparse_rs"}

    def forged(folder: Path) -> None:
        for entry in manifest_of(folder)["patches"]:
            if entry["attack"]["name"] not in crafted:
                arrays = load_file(folder / entry["file"])
                change(arrays)
                save_file(arrays, folder / entry["file"], metadata={"goals": '["untargeted"]'})
                forge(folder, entry["file"])

    return forged


def goals_of(folder: Path, entry: Row) -> list[str]:
    row = next(row for row in rows_of(folder) if row["patch"] == entry["patch"])
    return [count["goal"] for count in json.loads(row["counts"])]


def dropped_images(folder: Path) -> None:
    rows = rows_of(folder, OUTCOMES)
    written(folder, [row for row in rows if row["patched_prediction"] == row["label"]], OUTCOMES)


def dropped_cell_of_one_attack(folder: Path) -> None:
    """Without a trace in the manifest, but for its suite."""
    gone = next(row["cell"] for row in rows_of(folder) if row["attack"] == "lavan")
    written(folder, [row for row in rows_of(folder) if row["cell"] != gone])
    written(folder, [row for row in rows_of(folder, OUTCOMES) if row["cell"] != gone], OUTCOMES)
    manifest_changed(lambda m: m.update(jobs=[job for job in m["jobs"] if job["key"][:16] != gone]))(folder)


def failed_without_a_trace(folder: Path) -> None:
    """A cell that hurts is marked as failed wherever it is named; its outcomes and the images it decided are gone."""
    failed_but_for_its_images(folder)
    examples_with(first_only)(folder)


def failed_but_for_its_images(folder: Path) -> None:
    """A cell that hurts is marked as failed wherever it is named, and its outcomes are gone.

    Other cells have its patch, which would be missed otherwise.
    """
    rows = rows_of(folder)
    uses = Counter(row["patch"] for row in rows)
    worst = max((row for row in rows if uses[row["patch"]] > 1), key=lambda row: row["n_fooled"])
    worst |= {"status": "error", "error": "out of memory", "counts": "[]", "checks": "[]", "queries": "[]"}
    worst |= dict.fromkeys(("n_images", "n_clean_correct", "n_eligible", "n_fooled", "n_hit", "n_robust"), 0)
    found = ("forward_passes", "backward_passes", "parameters", "multiplications", "model_bytes", "latency_ms")
    worst |= dict.fromkeys(found)
    written(folder, rows)
    written(folder, [row for row in rows_of(folder, OUTCOMES) if row["cell"] != worst["cell"]], OUTCOMES)

    def change(manifest: Row) -> None:
        manifest["complete"] = False
        for job in manifest["jobs"]:
            if job["key"][:16] == worst["cell"]:
                job["error"] = "out of memory"

    manifest_changed(change)(folder)
    build(folder, ("csv", "md", "tex"))


def second_column(folder: Path) -> None:
    """A leaderboard with two columns asr, the second of which readers take."""
    path = folder / "leaderboard.csv"
    lines = list(csv.reader(path.read_text().splitlines()))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*lines[0], "asr"])
    writer.writerows([*line, "0.0000"] for line in lines[1:])
    path.write_text(buffer.getvalue())


def text_changed(name: str, change: Callable[[str], str]) -> Forgery:
    def forged(folder: Path) -> None:
        path = folder / name
        before = path.read_text()
        after = change(before)
        assert after != before, name
        path.write_text(after)

    return forged


def a_file_more(name: str) -> Forgery:
    def forged(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"better")

    return forged


def passed(checks: list[Row]) -> list[Row]:
    return [{**check, "verdict": "pass", "message": ""} for check in checks]


FORGERIES: dict[str, Forgery] = {
    "exchanged bits of targets": exchanged("target_bits", "4", "32"),
    "exchanged bits of sources": exchanged("source_bits", "4", "32"),
    "exchanged attacks": exchanged("attack", "lavan", "sparse_rs"),
    "another attack": all_cells(attack="gap"),
    "another defense": all_cells(defense="triqdef"),
    "another dataset": all_cells(dataset="cifar10"),
    "another model": all_cells(model="resnet56"),
    "another seed": all_cells(seed=7),
    "another lineage": all_cells(lineage="independent"),
    "another access": all_cells(access="scores"),
    "another kind of patch": all_cells(patch_kind="per_image"),
    "another quantization": all_cells(quantization="ptq-minmax"),
    "another preprocessor": all_cells(preprocessor="jpeg"),
    "seen in training": all_cells(seen="seen"),
    "another size": all_cells(patch_height=2, patch_width=2),
    "larger images": all_cells(image_height=224, image_width=224),
    "another source": all_cells(source_defense="none"),
    "another network": each_cell(lambda row: {"network": "0" * 16}),
    "not a control": all_cells(control=False),
    "moved patches": all_cells(transformation="rotation=20"),
    "chosen places": all_cells(places="chosen"),
    "certified images": all_cells(n_certified=48),
    "fewer passes": all_cells(forward_passes=1, backward_passes=1),
    "fewer fooled": all_cells(n_fooled=0),
    "no counts of queries": all_cells(queries="[]", queries_median=None),
    "a plugin's work": all_cells(plugins="attack x, y 1"),
    "checks that pass": with_checks(passed),
    "checks that are gone": with_checks(lambda checks: []),
    "better figures of checks": with_checks(lambda checks: [{**check, "figures": {}} for check in checks]),
    "a check of no name": with_checks(lambda checks: [*checks, {**checks[0], "id": "V99"}]),
    "a cell less": lambda folder: written(folder, rows_of(folder)[1:]),
    "a cell twice": lambda folder: written(folder, [*rows_of(folder), rows_of(folder)[0]]),
    "a cell less, without a trace": dropped_cell_of_one_attack,
    "a hidden cell": hidden_cell,
    "a cell that failed, without a trace": failed_without_a_trace,
    "a cell that failed, but for its images": failed_but_for_its_images,
    "a column more in cells": extra_column(CELLS),
    "a column more in outcomes": extra_column(OUTCOMES),
    "excluded cells": manifest_changed(
        lambda m: m["resolved"].update(exclude=[{"attack": ["lavan"], "target_bits": [4]}])
    ),
    "a weaker suite": manifest_changed(lambda m: m["resolved"]["attacks"][0].update(steps=1)),
    "another suite as typed": manifest_changed(lambda m: m["typed"]["attacks"][0].update(steps=1000)),
    "smaller networks": all_cells(model_bytes=1),
    "another plan": manifest_with(plan="0" * 32),
    "another suite's name": manifest_with(suite="cifar_transfer"),
    "another description": manifest_with(description="the whole of ImageNet"),
    "other seeds": manifest_with(seeds=[0, 1, 2]),
    "other class names": manifest_with(class_names=["a", "b", "c"]),
    "other counts of images": manifest_with(images={"train": 50_000}),
    "other images": manifest_with(dataset_fingerprint=dict.fromkeys(("train", "calibration"), "0" * 32)),
    "another note of images": manifest_with(dataset_note="imagenet"),
    "a partial run": manifest_with(partial=True),
    "an incomplete run": manifest_with(complete=False),
    "a field more": manifest_with(approved="yes"),
    "no hashes": manifest_with(files={}),
    "another revision": manifest_with(git={"revision": "f" * 40, "dirty": False}),
    "another device": manifest_with(device="cuda"),
    "another machine": manifest_changed(lambda m: m["ran_on"].update(processor="an abacus")),
    "another torch": manifest_changed(lambda m: m["versions"].update(torch="9.9")),
    "a mixed run": manifest_with(mixed="threads: 1 (3 jobs), 2 (4 jobs)"),
    "components from outside": manifest_with(plugins=[{"component": "attack x"}]),
    "another label of jobs": entries_with("jobs", label="train resnet56"),
    "other times": entries_with("jobs", seconds=0.001),
    "other devices of jobs": entries_with("jobs", device="an abacus"),
    "committed code": manifest_changed(lambda m: [job.update(dirty="dirty" not in job) for job in m["jobs"]]),
    "a job less": manifest_changed(lambda m: m.update(jobs=m["jobs"][1:])),
    "a job twice": manifest_changed(lambda m: m["jobs"].append(m["jobs"][0])),
    "another defense of checkpoints": entries_with("checkpoints", defense={"name": "triqdef"}),
    "other weights": entries_with("checkpoints", sha256="0" * 64),
    "other bits of networks": entries_with("networks", bits="2"),
    "other levels of networks": entries_with("networks", audit={"most_weight_levels": 4}),
    "more right without a patch": entries_with("networks", n_clean_correct=48, n_images=48, audit={}),
    "other steps of patches": entries_with("patches", attack={"name": "lavan", "steps": 1000}),
    "transparent patches": patches_with(lambda arrays: arrays.update(masks=np.zeros_like(arrays["masks"]))),
    "grey patches": patches_with(lambda arrays: arrays.update(textures=np.full_like(arrays["textures"], 128))),
    "lower losses": patches_with(lambda arrays: arrays.update(history=arrays["history"] - 5)),
    "no losses": patches_with(lambda arrays: arrays.pop("history")),
    "an array more": patches_with(lambda arrays: arrays.update(proof=np.ones(1, np.float32))),
    "stronger controls": controls_with(lambda arrays: arrays.update(textures=255 - arrays["textures"])),
    "invented outcomes": each_outcome(lambda row: {"patched_prediction": row["label"]}),
    "invented labels": each_outcome(lambda row: {"label": row["patched_prediction"]}),
    "moved places": each_outcome(lambda row: {"row": row["row"] + 1}),
    "fewer queries": each_outcome(lambda row: {"queries": None if row["queries"] is None else 1}),
    "images left alone": each_outcome(lambda row: {"attacked": row["patched_prediction"] == row["label"]}),
    "renamed images": each_outcome(lambda row: {"image": row["image"].replace("test", "hard")}),
    "dropped images": dropped_images,
    "two columns asr": second_column,
    "a lower rate in leaderboard.md": text_changed("leaderboard.md", lambda text: text.replace("lavan", "lavan+", 1)),
    "a line more in leaderboard.md": text_changed("leaderboard.md", lambda text: text + "\nVerified.\n"),
    "a row less in leaderboard.tex": text_changed(
        "leaderboard.tex", lambda text: "\n".join(line for line in text.split("\n") if "sparse" not in line)
    ),
    "a row less in leaderboard.csv": text_changed("leaderboard.csv", lambda text: text[: text.rindex("\n", 0, -1) + 1]),
    "another owner": text_changed(".run.json", lambda text: text.replace("tiny", "huge")),
    "other examples": examples_with(lambda arrays, ids: arrays.update(pixels=255 - arrays["pixels"])),
    "other labels of examples": examples_with(lambda arrays, ids: arrays["labels"].sort()),
    "other places of examples": examples_with(lambda arrays, ids: arrays.update(places=arrays["places"] + 1)),
    "exchanged names of examples": examples_with(lambda arrays, ids: ids.reverse()),
    "examples that decide less": examples_with(shown_by_others),
    "a patch more": a_file_more("patches/strongest.safetensors"),
    "a table that nobody made": a_file_more("costs.csv"),
}
