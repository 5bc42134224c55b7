"""Every kind of component works on a device that is not the CPU, and to the same effect."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from qpatchbench.cli import cli
from tests.devices.effects import KINDS
from tests.devices.second import NAME, SecondTensor, second_device


def test_operands_of_two_devices_are_refused_but_for_single_numbers() -> None:
    with second_device() as (device, reads):
        there = torch.arange(3.0).to(device)
        assert isinstance(there, SecondTensor)
        assert there.device.type == NAME
        assert (there * torch.tensor(2.0) + 1).cpu().tolist() == [1, 3, 5]
        with pytest.raises(
            RuntimeError, match="add: expected all tensors on 'seconddevice', found some on the CPU, of shape"
        ):
            there + torch.ones(3)
        with pytest.raises(
            RuntimeError, match="expected a generator of the device 'seconddevice', found one of the CPU"
        ):
            torch.rand(3, device=device, generator=torch.Generator())
        there[1:].add_(10)
        assert there.tolist() == [0, 11, 12]
        assert reads == {"to the device": 1, "from the device": 1, "tolist": 1}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (_, names) in KINDS.items() for name in names])
def test_components(kind: str, name: str) -> None:
    with second_device() as (device, _):
        KINDS[kind][0](name, device)


SUITE = """
suite: elsewhere
dataset: {name: fake, image_size: 16, classes: 3, train_pool: 40, test_pool: 20, calibration_images: 8, craft_images: 8}
models: [resnet20]
training: {epochs: 1, batch_size: 8, learning_rate: 0.05, augmentation: crop_flip}
defenses: [qat]
quantizers: [{name: qat, bits: [32, 4]}]
preprocessors: [none, {name: smoothing}]
attacks:
  - {name: lavan, size: 4, targets: [1], steps: 2, batch_size: 4}
  - {name: sparse_rs, size: 4, queries: 3, targets: untargeted}
transfer: {sources: [32, same]}
exclude: [{preprocessor: smoothing, target_bits: 32}]
analysis: {costs: qat, fewer_bits: true, similarity: true, maps: 2, images: 6}
evaluation: {images: 8, checks: full}
"""


def test_a_whole_run(tmp_path: Path) -> None:
    """Trains, deploys, crafts, evaluates, audits, compares and measures costs there; no job fails."""
    (tmp_path / "suite.yaml").write_text(SUITE)
    output = tmp_path / "out"
    with second_device() as (_, reads):
        result = CliRunner().invoke(
            cli,
            ["run", str(tmp_path / "suite.yaml"), "--output", str(output), "--display", "plain", "--device", NAME],
            standalone_mode=False,
            env={"QPATCHBENCH_CACHE": str(tmp_path / "cache"), "QPATCHBENCH_DATA": None},
        )
    assert result.exception is None, result.output
    assert result.return_value == 0, result.output
    assert reads["from the device"], "nothing ran there"
    cells = pd.read_parquet(output / "cells.parquet")
    assert len(cells) >= 8
    assert (output / "manifest.json").read_text().count("a second CPU") >= 2
