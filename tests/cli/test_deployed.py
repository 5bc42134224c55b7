"""The suite of docs/deployed.md, whose files are made here, and what is refused of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qpatchbench.models.timm_models import TimmModel
from qpatchbench.runs.run import Run
from tests.cli.running import ended
from tests.models.deployed.made_files import int8_file, onnx_file

PAGE = Path(__file__).parents[2] / "docs/deployed.md"
PRINTED = PAGE.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
# The same on fewer images and with fewer steps.
SUITE = (
    PRINTED.replace("steps: 60", "steps: 3").replace("queries: 60", "queries: 3").replace("images: 200", "images: 30")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timm network of random weights, its ONNX file, and what onnxruntime's own static quantization makes of that."""
    made = tmp_path_factory.mktemp("shipped")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TimmModel(name="timm/test_resnet").build(10, 16).eval()
    save_file(network.state_dict(), made / "float.safetensors")
    int8_file(made / "int8.onnx", onnx_file(made / "float.onnx", network, torch.rand(2, 3, 16, 16)), side=16)
    return made


def told(folder: Path, command: str, old: str, new: str) -> str:
    assert old in SUITE
    (folder / "changed.yaml").write_text(SUITE.replace(old, new))
    result = ended(command, "changed.yaml", folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    assert result.returncode == 2, result.stdout
    return result.stderr


def run(folder: Path, name: str, suite: str) -> list[dict[str, str]]:
    (folder / f"{name}.yaml").write_text(suite)
    arguments = ("run", f"{name}.yaml", "--output", name, "--display", "none")
    result = ended(*arguments, folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    assert result.returncode == 0, result.stderr
    with (folder / name / "leaderboard.csv").open() as file:
        return [*csv.DictReader(file)]


def only(file: str, bits: int | str) -> str:
    """The suite with one deployed model, this file, attacked from scores."""
    ours = "{name: timm/test_resnet, label: ours, weights: float.safetensors}"
    models = f"  - {ours}\n  - {{name: deployed, file: {file}, bits: {bits}}}\n"
    before, _, rest = SUITE.partition("models:\n")
    excluded = "exclude: [{attack: lavan}, {model: ours}]\n"
    return f"{before}models:\n{models}{excluded}{rest[rest.index('defenses:') :]}"


def test_patches_of_the_sibling_and_scores_reach_the_files(folder: Path) -> None:
    assert len(PRINTED.splitlines()) <= 15
    rows = run(folder, "suite", SUITE)
    files = [row for row in rows if row["model"] != "ours"]
    assert {row["quantization"] for row in files} == {"onnxruntime-cpu"}
    assert {(row["model"], row["target_bits"]) for row in files} == {("float", "32"), ("int8", "8")}
    found = {(row["model"], row["attack"], row["source_model"], row["lineage"]) for row in files}
    assert found == {
        (model, attack, source, lineage)
        for model in ("float", "int8")
        for attack, source, lineage in (
            ("lavan", "ours", "sibling"),
            ("sparse_rs", "ours", "sibling"),
            ("sparse_rs", model, "same-network"),
        )
    }
    # The float file is the float network: the same patch fools the same images.
    own = {row["attack"]: row for row in rows if row["model"] == "ours" and row["quantization"] == "fp"}
    for row in files:
        if row["model"] == "float" and row["lineage"] == "sibling":
            for count in ("n_fooled", "n_clean_correct"):
                assert row[count] == own[row["attack"]][count]
    manifest = json.loads((folder / "suite" / "manifest.json").read_text())
    int8 = next(entry for entry in manifest["networks"] if entry["label"].startswith("int8"))
    assert int8["quantizer"]["runtime"] == "onnxruntime-cpu"
    assert int8["quantizer"]["release"]
    assert int8["audit"]["effective_bits"] == {"activation": 8.0, "weight": 8.0}
    result = ended("verify", "suite", folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    assert result.returncode == 3, result.stdout
    assert "cells made again on 4 of 4 networks, 0 of " in result.stdout

    sizes = {row["model"]: row for row in files}
    assert int(sizes["int8"]["model_bytes"]) == (folder / "int8.onnx").stat().st_size
    assert sizes["int8"]["multiplications"] == sizes["float"]["multiplications"]
    assert float(sizes["int8"]["latency_ms"]) > 0
    simulated = {row["target_bits"]: row for row in rows if row["model"] == "ours"}
    assert simulated["8"]["multiplications"] == sizes["float"]["multiplications"]
    assert simulated["8"]["latency_ms"] == ""
    # Weights in a byte each instead of four; biases stay.
    assert 0.25 < int(simulated["8"]["model_bytes"]) / int(simulated["32"]["model_bytes"]) < 0.27
    assert "| MMAC | kB | ms |" in (folder / "suite" / "leaderboard.md").read_text()


def test_an_attack_by_gradient_that_meets_the_file_nowhere_is_refused(folder: Path) -> None:
    for old, new in ((", sibling: ours", ""), ("evaluation:", "transfer: {sources: [same]}\nevaluation:")):
        text = told(folder, "validate", old, new)
        assert "lavan follows a gradient, and int8 answers from a file that gives none" in text
        assert "sparse_rs follows" not in text
        assert "32 in transfer.sources" in text


def test_autopatch_that_meets_the_file_nowhere_is_refused_with_its_part_from_scores(folder: Path) -> None:
    old = "name: lavan, size: 5, targets: untargeted, steps: 3}"
    for sources in ("", "transfer: {sources: [same]}\n"):
        suite = (
            SUITE.replace(", sibling: ours", "")
            if not sources
            else SUITE.replace("evaluation:", f"{sources}evaluation:")
        )
        (folder / "refused.yaml").write_text(suite.replace(old, "name: autopatch, size: 5, effort: trial}"))
        for command in ("validate", "run"):
            options = ("--output", "refused", "--display", "none") if command == "run" else ()
            result = ended(command, "refused.yaml", *options, folder=folder, QPATCHBENCH_CACHE=str(folder / "none"))
            assert result.returncode == 2, result.stdout
            assert "autopatch follows a gradient, and int8 answers from a file that gives none" in result.stderr
            assert "or autopatch_scores, its part that needs none" in result.stderr
    assert not (folder / "none").exists(), "refused before any work"
    assert not (folder / "refused").exists()


def test_the_part_of_autopatch_from_scores_is_crafted_on_the_file(folder: Path) -> None:
    suite = only("int8.onnx", "w8a8").replace(
        "{name: sparse_rs, size: 5, targets: untargeted, queries: 3}",
        "{name: autopatch_scores, size: 5, effort: trial}",
    )
    assert "autopatch_scores" in suite
    (row,) = run(folder, "scores", suite)
    assert (row["attack"], row["source_model"], row["lineage"]) == ("autopatch_scores", "int8", "same-network")
    (cell,) = (cell for cell in Run(folder / "scores").cells if not cell.control)
    assert (cell.access, cell.places) == ("scores", "chosen")
    assert cell.backward_passes == 0
    assert cell.forward_passes is not None
    assert cell.forward_passes > 30
    assert cell.queries_median is None or cell.queries_median > 1
    checks = {check.id: check for check in cell.checks}
    for name in ("V3", "V11", "V12", "V13"):
        assert checks[name].verdict == "not-run"
        assert checks[name].message == "int8 answers from a file, which gives no gradient"
    told = ended("explain", "scores", "attack=autopatch_scores", folder=folder).stdout
    assert "  not run: V3 V11 V12 (int8 answers from a file, which gives no gradient)\n" in told


def test_siblings_and_files_are_looked_for(folder: Path) -> None:
    text = told(folder, "validate", "bits: w8a8, sibling: ours", "bits: w8a8, sibling: our")
    assert "changed.yaml:6" in text
    assert "found 'our'. Did you mean: ours?" in text
    text = told(folder, "plan", "file: int8.onnx", "file: int9.onnx")
    assert "changed.yaml:6" in text
    assert "Did you mean: int8.onnx?" in text


def test_bits_that_a_file_does_not_have_fail_v15(folder: Path) -> None:
    rows = run(folder, "claimed", only("float.onnx", 8))
    assert rows
    assert all("V15" in row["checks"].partition(";")[0] for row in rows)


def test_verify_runs_no_code_because_a_manifest_names_it(folder: Path) -> None:
    (folder / "answering_once.py").write_text("def answer(images):\n    return 9 * images.flatten(1)[:, 300:310]\n")
    rows = run(folder, "code", only('"answering_once.py:answer"', 8))
    assert {row["quantization"] for row in rows} == {"python"}
    result = ended("verify", "code", folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    assert result.returncode == 3, result.stdout
    assert "answering_once is code, which is not run because a manifest names it" in result.stdout
