"""A component that fails: its cells are rows that say so, the rest is measured, and the exit code is 1."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open

from tests.cli.running import ended

PLUGIN = """
from qpatchbench.attacks.controls import Random
from qpatchbench.registry import Entry


class Fails(Random):
    "Noise that is never made."

    def craft(self, task):
        raise RuntimeError("no patch today")


CATALOGUES = {"attacks": {"fails": Entry(f"{__name__}:Fails", "never works")}}
"""
SUITE = """
suite: failing
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 200, test_pool: 30, calibration_images: 8,
          craft_images: 16}
models: [resnet20]
training: {epochs: 0}
defenses: [none]
quantizers: [{name: ptq, bits: [32, 4]}]
attacks: [{name: fails, size: 2}, {name: lavan, size: 2, steps: 2, batch_size: 4}]
transfer: {sources: [32]}
evaluation: {images: 30}
"""


def run_with(folder: Path, plugin: str) -> CompletedProcess[str]:
    """Run failing.yaml in the folder, with a plugin and a cache of its own."""
    arguments = ("--plugin", plugin, "run", "failing.yaml", "--display", "plain")
    return ended(*arguments, folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))


def test_a_failing_attack_is_a_row_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text(PLUGIN)
    (tmp_path / "failing.yaml").write_text(SUITE)
    result = run_with(tmp_path, "never.py")
    assert result.returncode == 1, result.stderr
    # The patch that cannot be made, and its two cells; only the former is a failure of its own.
    assert "3 of " in result.stderr
    assert result.stderr.count("RuntimeError: no patch today") == 1
    assert "Traceback" not in result.stderr

    output = tmp_path / "results" / "failing"
    cells = pq.read_table(output / "cells.parquet").to_pylist()
    assert {(cell["attack"], cell["status"]) for cell in cells} == {
        ("fails", "error"),
        ("lavan", "ok"),
        ("random", "ok"),
        ("grey", "ok"),
    }
    failed = [cell for cell in cells if cell["status"] == "error"]
    assert {cell["target_bits"] for cell in failed} == {"32", "4"}
    assert all("no patch today" in cell["error"] for cell in failed)
    assert all(cell["n_images"] == 30 for cell in cells if cell["status"] == "ok")
    assert json.loads((output / "manifest.json").read_text())["complete"] is False

    with (output / "leaderboard.csv").open(newline="") as file:
        rows = {(row["attack"], row["target_bits"]): row for row in csv.DictReader(file)}
    assert rows["lavan", "4"]["asr"] != ""
    assert rows["fails", "4"]["asr"] == "", "a crashed attack is no robustness"
    assert "no patch today" in (output / "report.html").read_text()


DIVERGING = """
from qpatchbench.defenses.none import NoDefense
from qpatchbench.registry import Entry


class Diverges(NoDefense):
    "Float training whose loss is no number after the first epoch."

    def loss(self, network, batch, step):
        losses = super().loss(network, batch, step)
        return {"clean": losses["clean"] * (1.0 if step.epoch_fraction < 0.5 else float("nan"))}


CATALOGUES = {"defenses": {"diverges": Entry(f"{__name__}:Diverges", "never converges")}}
"""


def test_a_training_that_diverges_says_where_its_last_good_weights_are(tmp_path: Path) -> None:
    (tmp_path / "diverging.py").write_text(DIVERGING)
    suite = SUITE.replace("{epochs: 0}", "{epochs: 2, batch_size: 32}").replace("[none]", "[diverges]")
    (tmp_path / "failing.yaml").write_text(suite.replace("{name: fails, size: 2}, ", ""))
    result = run_with(tmp_path, "diverging.py")
    assert result.returncode == 1, result.stderr
    (line,) = [line for line in (result.stdout + result.stderr).splitlines() if "FAILED train" in line]
    assert "loss term 'clean' became nan in epoch 2, step 1; expected a finite number" in line
    kept = Path(line.rpartition("The weights after epoch 1 are kept in ")[2])
    with safe_open(kept, framework="np") as file:
        weights = [name for name in file.keys() if name.startswith("module/")]  # noqa: SIM118 (no mapping)
        assert weights
        assert all(np.isfinite(file.get_tensor(name)).all() for name in weights)
