"""`qpatchbench describe network`, on a network that comes with weights and on one that has to be trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from qpatchbench.cli import cli
from qpatchbench.models.cifar import CifarModel

SUITE = """
suite: described
description: one network
dataset: {{name: fake, image_size: 32, classes: 4, train_pool: 48, test_pool: 16, calibration_images: 16,
          craft_images: 8}}
models: [{{name: resnet20, weights: {weights}}}]
defenses: [none]
training: {{epochs: 1}}
quantizers:
  - {{name: ptq, calibration: percentile, bits: [32, w4a8]}}
attacks:
  - {{name: lavan, size: 6, targets: untargeted, steps: 1}}
transfer: {{sources: [same]}}
evaluation: {{images: 8}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(tmp_path / "cache"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(CifarModel(name="resnet20").build(4, 32).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path


def run(folder: Path, weights: str, *arguments: str) -> tuple[int, str]:
    (folder / "suite.yaml").write_text(SUITE.format(weights=weights))
    result = CliRunner().invoke(cli, ["describe", "network", str(folder / "suite.yaml"), *arguments])
    return result.exit_code, result.output + str(result.exception or "")


def test_every_tensor_has_a_line(folder: Path) -> None:
    weights = str(folder / "weights.safetensors")
    code, output = run(folder, weights, "resnet20", "ptq-percentile", "w4a8")
    assert code == 0, output
    lines = output.splitlines()
    assert lines[0].endswith("40 tensors that multiply")
    assert lines[1].split() == ["layer", "tensor", "bits", "grid", "a", "scale", "per", "from", "to", "levels", "error"]
    weight = next(line.split() for line in lines if line.startswith("backbone.layer1.0.conv1") and "weight" in line)
    assert weight[1:6] == ["weight", "4", "symmetric", "output", "channel"]
    code, output = run(folder, weights, "resnet20", "ptq", "w4a8", "--json")
    assert {rule["bits"] for rule in json.loads(output)} == {4, 8, 32}


def test_what_the_suite_does_not_have_is_named(folder: Path) -> None:
    weights = str(folder / "weights.safetensors")
    for arguments, hint in (
        (("resnet21", "ptq", "w4a8"), "Did you mean: resnet20"),
        (("resnet20", "ptq", "5"), "w4a8"),
    ):
        code, output = run(folder, weights, *arguments)
        assert code != 0
        assert hint in output


def test_a_network_that_is_not_trained_says_so(folder: Path) -> None:
    code, output = run(folder, "train", "resnet20", "ptq", "w4a8")
    assert code != 0
    assert "has not been trained yet" in output


def test_components_are_still_described() -> None:
    result = CliRunner().invoke(cli, ["describe", "quantizers", "ptq"])
    assert result.exit_code == 0
    assert "bias_correction = false" in result.output
