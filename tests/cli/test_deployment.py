"""`deployment: onnxruntime` in a suite: every cell is evaluated a second time, and V16 says how far both agree."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from qpatchbench.evaluation.checks.deployment_agreement import Answers, deployment_agrees
from qpatchbench.evaluation.deployment.disturbance import disturbed
from qpatchbench.models.cifar import CifarModel
from qpatchbench.types import Untargeted
from tests.cli.running import ended

SUITE = """\
suite: twice
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 80, test_pool: 30, calibration_images: 8, craft_images: 9}
models: [{name: resnet20, weights: weights.safetensors}]
defenses: [none]
quantizers: [{name: ptq, bits: [32, 8]}, {name: dynamic, bits: [8]}]
preprocessors: [none, bit_depth]
exclude: [{preprocessor: bit_depth, quantizer: [fp, dynamic]}]
deployment: onnxruntime
attacks:
  - {name: lavan, size: 3, targets: untargeted, steps: 2}
transfer: {sources: [32]}
evaluation: {images: 30}
"""


def test_every_cell_that_a_model_is_written_of_is_evaluated_twice(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        save_file(CifarModel(name="resnet20").build(3, 8).state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "suite.yaml").write_text(SUITE)
    arguments = ("run", "suite.yaml", "--output", "out", "--display", "none")
    result = ended(*arguments, folder=tmp_path, QPATCHBENCH_CACHE=str(tmp_path / "cache"))
    assert result.returncode == 0, result.stderr
    found = {}
    for cell in pq.read_table(tmp_path / "out" / "cells.parquet").to_pylist():
        checks = {check["id"]: check for check in json.loads(cell["checks"])}
        if not cell["control"]:
            found[cell["quantization"], cell["preprocessor"]] = checks["V16"]
    assert len(found) == 4
    for (quantization, preprocessor), check in found.items():
        if quantization == "dynamic":
            assert check["verdict"] == "not-run"
            assert "sets its scale for every image at run time" in check["message"]
            continue
        assert check["figures"]["of"] == 60
        changed = check["figures"]["changed"]
        assert changed <= (0 if quantization == "fp" else 6), (quantization, preprocessor)
        assert check["verdict"] == ("pass" if not changed else check["verdict"])
        assert f"the runtime changes {changed:.0f} of 60 predictions" in check["message"]
    with (tmp_path / "out" / "leaderboard.csv").open() as file:
        rows = {row["quantization"]: row for row in csv.DictReader(file) if row["preprocessor"] == "none"}
    assert float(rows["fp"]["agreement"]) == 100
    assert rows["fp"]["asr_runtime"] == rows["fp"]["asr"]
    assert rows["dynamic"]["agreement"] == ""
    assert int(rows["ptq-minmax"]["model_bytes"]) < int(rows["fp"]["model_bytes"]) / 3
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["resolved"]["deployment"] == "onnxruntime"
    verify = ("verify", "out", "--suite", "suite.yaml")
    smaller = {**manifest["networks"][1]["size"], "model_bytes": 1}
    manifest["networks"][1]["size"] = smaller
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    forged = ended(*verify, folder=tmp_path, QPATCHBENCH_CACHE=str(tmp_path / "cache"))
    assert forged.returncode == 1
    wrong = [line for line in forged.stdout.partition("claimed, ")[0].splitlines() if line.startswith("  - ")]
    (told,) = [line for line in wrong if line.startswith("  - manifest.json, network ")]
    assert told.startswith(f"  - manifest.json, network {manifest['networks'][1]['network']}: size: expected ")
    assert "the latency in 9 cells, which another run measures otherwise" in forged.stdout


@pytest.mark.parametrize(
    ("clean", "patched", "verdict"),
    [
        (0, 0, "pass"),
        (3, 0, "pass"),  # 3 of 1,000 is below 0.5 %
        (6, 0, "warn"),  # 0.6 %, and no proof that it is more than 0.5 %
        (30, 0, "fail"),
        (0, 40, "fail"),
    ],
)
def test_the_verdict_depends_on_what_changes(clean: int, patched: int, verdict: str) -> None:
    labels = np.zeros(500, np.int32)
    simulated = Answers(labels.copy(), np.repeat([[0, 1]], 250, axis=0).reshape(1, -1))
    runtime = Answers(simulated.clean.copy(), simulated.patched.copy())
    runtime.clean[:clean] = 2
    runtime.patched[0, : 2 * patched : 2] = 1  # fooled there, and not in the simulation
    layers = [{"layer": "stem", "codes": 1000, "beyond": 20}]
    check = deployment_agrees(labels, simulated, runtime, (Untargeted(),), None, layers)
    assert (check.id, check.verdict) == ("V16", verdict)
    assert check.figures["changed"] == clean + patched
    assert "codes differ by more than one at the input of stem (2 %)" in check.message


@pytest.mark.parametrize(("own", "verdict"), [(0, "fail"), (10, "fail"), (25, "warn"), (60, "warn")])
def test_what_rounding_changes_in_the_simulation_is_no_fault_of_the_runtime(own: int, verdict: str) -> None:
    labels = np.zeros(500, np.int32)
    simulated = Answers(labels.copy(), labels[None].copy())
    runtime, shaken = (Answers(labels.copy(), labels[None].copy()) for _ in range(2))
    runtime.clean[:30] = 2
    shaken.clean[100 : 100 + own] = 2  # others than those that the runtime changes
    check = deployment_agrees(labels, simulated, runtime, (Untargeted(),), None, (), shaken)
    assert (check.verdict, check.figures["changed_by_noise"]) == (verdict, own)


def test_noise_of_the_last_digit_is_the_same_every_time_and_small() -> None:
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    found = disturbed(lambda pixels: pixels)(images)
    assert 0 < float((found - images).abs().max()) < 1e-5
    assert float(found.max()) <= 1
    assert torch.equal(found, disturbed(lambda pixels: pixels)(images))
    assert torch.equal((found > 0.5).float(), (images > 0.5).float())


def test_an_asr_outside_of_the_interval_fails() -> None:
    labels = np.zeros(10_000, np.int32)
    simulated = Answers(labels.copy(), (np.arange(10_000) % 2)[None].astype(np.int32))
    runtime = Answers(labels.copy(), simulated.patched.copy())
    runtime.patched[0, :99:2] = 1
    goals = (Untargeted(),)
    assert deployment_agrees(labels, simulated, runtime, goals, None, ()).verdict == "pass"
    runtime.patched[0, : 2 * 110 : 2] = 1  # 0.55 % of the predictions, 1.1 points of ASR: the interval is 0.98 wide
    check = deployment_agrees(labels, simulated, runtime, goals, None, ())
    assert check.verdict == "fail"
    assert check.figures["asr_runtime"] == pytest.approx(0.511)
