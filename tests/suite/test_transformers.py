"""A timm transformer at 32 pixels is trained and quantized in full by a suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from qpatchbench.cli import cli
from qpatchbench.errors import QPatchBenchError
from qpatchbench.models.timm_models import TimmModel

SUITE = """
suite: small_transformer
dataset: {name: fake, image_size: 32, classes: 3, train_pool: 64, test_pool: 24,
          calibration_images: 16, craft_images: 8}
models: [{name: timm/test_vit, input_size: 32, patch_size: 8}]
training: {epochs: 1, batch_size: 32, learning_rate: 0.01, augmentation: none}
defenses: [none]
quantizers:
  - {name: ptq, label: layers, bits: [32, 8]}
  - {name: ptq, scope: full, label: full, bits: [8]}
attacks: [{name: lavan, size: 8, targets: untargeted, steps: 2}]
transfer: {sources: [same]}
evaluation: {images: 16}
"""


def test_a_suite_trains_a_transformer_at_32_pixels_and_quantizes_it_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "suite.yaml").write_text(SUITE)
    arguments = ["run", str(tmp_path / "suite.yaml"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "float_operations" in json.dumps(manifest)
    audits = {json.dumps(network["audit"].get("float_operations")) for network in manifest["networks"]}
    # At 32 bits nothing is claimed, so that nothing is audited.
    assert any("attention products" in text for text in audits)
    assert any("softmax" in text and "attention products" not in text for text in audits)


def test_sizes_are_part_of_the_key_only_where_they_are_given() -> None:
    assert "input_size" not in TimmModel(name="timm/test_vit").identity()
    sized = TimmModel(name="timm/test_vit", input_size=32, patch_size=8)
    assert sized.identity()["input_size"] == 32
    assert sized.preprocessing(32).image_size == 32
    with pytest.raises(QPatchBenchError, match="input_size and patch_size are for transformers"):
        TimmModel(name="resnet18", input_size=32).build(10, 32)
