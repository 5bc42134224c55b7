"""A suite with files that are deployed already: patches of the float sibling, attacks from scores, refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qpatchbench.models.cifar import CifarModel
from tests.cli.running import ended
from tests.models.deployed.made_files import int8_file, onnx_file

SUITE = """\
suite: shipped
dataset: {name: fake, image_size: 16, classes: 3, train_pool: 80, test_pool: 24, calibration_images: 8, craft_images: 9}
models:
  - {name: resnet20, weights: weights.safetensors}
  - {name: deployed, file: shipped.onnx, bits: 32, sibling: resnet20}
  - {name: deployed, file: shipped-int8.onnx, bits: w8a8, sibling: resnet20}
defenses: [none]
quantizers: [{name: ptq, bits: [32, 8]}]
attacks:
  - {name: lavan, size: 6, targets: untargeted, steps: 4}
  - {name: sparse_rs, size: 6, targets: untargeted, queries: 4}
evaluation: {images: 24}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float network, its ONNX file, and what onnxruntime's own static quantization makes of that."""
    made = tmp_path_factory.mktemp("shipped")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = CifarModel(name="resnet20").build(3, 16).eval()
    save_file(network.state_dict(), made / "weights.safetensors")
    int8_file(made / "shipped-int8.onnx", onnx_file(made / "shipped.onnx", network, torch.rand(2, 3, 16, 16)), side=16)
    (made / "suite.yaml").write_text(SUITE)
    return made


def told(folder: Path, command: str, old: str = "", new: str = "") -> str:
    (folder / "changed.yaml").write_text(SUITE.replace(old, new) if old else SUITE)
    result = ended(command, "changed.yaml", folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    assert result.returncode == 2, result.stdout
    return result.stderr


def run(folder: Path, suite: str) -> list[dict[str, str]]:
    arguments = ("run", f"{suite}.yaml", "--output", suite, "--display", "none")
    result = ended(*arguments, folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    assert result.returncode == 0, result.stderr
    with (folder / suite / "leaderboard.csv").open() as file:
        return [*csv.DictReader(file)]


def test_patches_of_the_sibling_and_scores_reach_the_files(folder: Path) -> None:
    rows = run(folder, "suite")
    files = [row for row in rows if row["model"].startswith("shipped")]
    assert {row["quantization"] for row in files} == {"onnxruntime-cpu"}
    assert {(row["model"], row["target_bits"]) for row in files} == {("shipped", "32"), ("shipped-int8", "8")}
    found = {(row["model"], row["attack"], row["source_model"], row["lineage"]) for row in files}
    assert found == {
        (model, attack, source, lineage)
        for model in ("shipped", "shipped-int8")
        for attack, source, lineage in (
            ("lavan", "resnet20", "sibling"),
            ("sparse_rs", "resnet20", "sibling"),
            ("sparse_rs", model, "same-network"),
        )
    }
    # The float file is the float network: the same patch fools the same images.
    own = {row["attack"]: row for row in rows if row["model"] == "resnet20" and row["quantization"] == "fp"}
    for row in files:
        if row["model"] == "shipped" and row["lineage"] == "sibling":
            for count in ("n_fooled", "n_clean_correct"):
                assert row[count] == own[row["attack"]][count]
    manifest = json.loads((folder / "suite" / "manifest.json").read_text())
    int8 = next(entry for entry in manifest["networks"] if entry["label"].startswith("shipped-int8"))
    assert int8["quantizer"]["runtime"] == "onnxruntime-cpu"
    assert int8["quantizer"]["release"]
    assert int8["audit"]["effective_bits"] == {"activation": 8.0, "weight": 8.0}
    sizes = {row["model"]: row for row in rows if row["target_bits"] in ("32", "8")}
    assert int(sizes["shipped-int8"]["model_bytes"]) == (folder / "shipped-int8.onnx").stat().st_size
    assert sizes["shipped-int8"]["multiplications"] == sizes["shipped"]["multiplications"]
    assert float(sizes["shipped-int8"]["latency_ms"]) > 0
    simulated = {row["target_bits"]: row for row in rows if row["model"] == "resnet20"}
    assert simulated["8"]["multiplications"] == sizes["shipped"]["multiplications"]
    assert simulated["8"]["latency_ms"] == ""
    # Weights in a byte each instead of four; biases stay.
    assert 0.25 < int(simulated["8"]["model_bytes"]) / int(simulated["32"]["model_bytes"]) < 0.27
    text = (folder / "suite" / "leaderboard.md").read_text()
    assert "| MMAC | kB | ms |" in text.replace("---", "")


def test_an_attack_by_gradient_that_meets_the_file_nowhere_is_refused(folder: Path) -> None:
    for old, new in ((", sibling: resnet20", ""), ("evaluation:", "transfer: {sources: [same]}\nevaluation:")):
        text = told(folder, "validate", old, new)
        assert "lavan follows a gradient, and shipped-int8 answers from a file that gives none" in text
        assert "sparse_rs follows" not in text
        assert "32 in transfer.sources" in text


def test_siblings_and_files_are_looked_for(folder: Path) -> None:
    text = told(folder, "validate", "bits: w8a8, sibling: resnet20", "bits: w8a8, sibling: resnet2")
    assert "changed.yaml:6" in text
    assert "found 'resnet2'. Did you mean: resnet20?" in text
    text = told(folder, "plan", "file: shipped-int8.onnx", "file: shipped-int4.onnx")
    assert "changed.yaml:6" in text
    assert "Did you mean: shipped-int8.onnx?" in text


def test_bits_that_a_file_does_not_have_fail_v15(folder: Path) -> None:
    changed = SUITE.replace("shipped.onnx, bits: 32", "shipped.onnx, bits: 8")
    (folder / "claimed.yaml").write_text(changed.replace("attacks:", "exclude: [{attack: lavan}]\nattacks:"))
    rows = [row for row in run(folder, "claimed") if row["model"] == "shipped"]
    assert rows
    assert all("V15" in row["checks"].partition(";")[0] for row in rows)


def test_verify_runs_no_code_because_a_manifest_names_it(folder: Path) -> None:
    (folder / "answering_once.py").write_text(
        "import torch\n\n\ndef answer(images):\n    return images.flatten(1)[:, :3] * torch.tensor([1.0, 2, 3])\n"
    )
    (folder / "code.yaml").write_text(
        SUITE.replace("file: shipped.onnx, bits: 32", '"file": "answering_once.py:answer", bits: 8').replace(
            "attacks:", "exclude: [{attack: lavan}]\nattacks:"
        )
    )
    rows = [row for row in run(folder, "code") if row["model"] == "answering_once"]
    assert {row["quantization"] for row in rows} == {"python"}
    result = ended("verify", "code", folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    assert result.returncode == 3, result.stdout
    assert "answering_once is code, which is not run because a manifest names it" in result.stdout
    result = ended("verify", "suite", folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    assert result.returncode == 3, result.stdout
    assert "predictions: 20 of 20 cells made again on 4 of 4 networks, 0 of 480 predictions differ" in result.stdout
