"""Images that autopatch leaves alone, since its source gets them wrong, are no failures to transfer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from qpatchbench.cli import cli
from qpatchbench.runs.patch_file import read_patch
from qpatchbench.runs.run import Run
from qpatchbench.types import FLOAT

SUITE = """
suite: alone
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 240, test_pool: 60, calibration_images: 16,
          craft_images: 16, noise: 0.5}
models: [resnet20]
training: {epochs: 1, batch_size: 32, learning_rate: 0.05, augmentation: none}
defenses: [none]
quantizers: [{name: ptq, bits: [32, 2]}]
attacks:
  - {name: autopatch, size: 3, effort: trial}
transfer: {sources: [32, same]}
evaluation: {images: 60}
"""


def invoke(root: Path, *arguments: str) -> Result:
    environment = {"QPATCHBENCH_CACHE": str(root / "cache"), "QPATCHBENCH_DATA": None}
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False, env=environment)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    (folder / "suite.yaml").write_text(SUITE)
    options = ["--output", str(folder / "run"), "--display", "none"]
    result = invoke(folder, "run", str(folder / "suite.yaml"), *options)
    assert result.return_value == 0, result.output
    return folder


def test_they_are_not_eligible_on_a_target_that_gets_them_right(root: Path) -> None:
    run = Run(root / "run")
    cells = {(cell.source_bits, cell.target_bits): cell for cell in run.cells if not cell.control}
    transferred, own = cells["32", "2"], cells["32", str(FLOAT)]
    source, target = run.outcomes(own), run.outcomes(transferred)
    (count,) = transferred.counts
    assert count.n_left_alone == int((target.correct & ~source.correct).sum()) > 0
    assert count.n_eligible == int((target.correct & source.correct).sum())
    assert count.n_eligible + count.n_left_alone == transferred.n_clean_correct
    assert own.counts[0].n_left_alone == 0
    control = next(cell for cell in run.cells if cell.control and cell.network == transferred.network)
    assert control.counts[0].n_left_alone == 0


def test_a_person_is_told_of_them(root: Path) -> None:
    wanted = ("attack=autopatch", "target_bits=2", "source_bits=32")
    told = invoke(root, "explain", str(root / "run"), *wanted).output.splitlines()
    cell = next(cell for cell in Run(root / "run").cells if (cell.source_bits, cell.target_bits) == ("32", "2"))
    (count,) = cell.counts
    fooled = f"goal untargeted: {count.n_fooled} of {count.n_eligible} fooled"
    assert f"    {fooled}; {count.n_left_alone} more left alone, since the source gets them wrong" in told


def test_the_patch_file_marks_them_and_a_run_with_them_is_verified(root: Path) -> None:
    run = Run(root / "run")
    cell = next(cell for cell in run.cells if (cell.source_bits, cell.target_bits) == ("32", "2"))
    stored = read_patch(root / "run" / "patches" / f"{cell.patch}.safetensors")
    assert stored.attacked is not None
    assert 0 < stored.attacked.sum() < len(stored.attacked)
    result = invoke(root, "verify", str(root / "run"))
    assert result.return_value == 3, result.output
    assert "claimed, not checked:\n  - that its suite is the one it is named after: --suite FILE " in result.output
    assert result.output.count("\n  - ") == 1


@pytest.mark.parametrize("spared", ["everything that holds", "one more"])
def test_images_that_are_left_alone_in_the_table_only_are_found(spared: str, root: Path, tmp_path: Path) -> None:
    forged = tmp_path / "run"
    shutil.copytree(root / "run", forged)
    table = pq.read_table(forged / "outcomes.parquet")
    columns = {
        name: table[name].to_numpy(zero_copy_only=False) for name in ("label", "clean_prediction", "patched_prediction")
    }
    attacked = np.array(
        [None if value is None else bool(value) for value in table["attacked"].to_pylist()], dtype=object
    )
    holds = (attacked == True) & (columns["patched_prediction"] == columns["label"])  # noqa: E712 (None is neither)
    chosen = holds.nonzero()[0]
    attacked[chosen if spared == "everything that holds" else chosen[:1]] = False
    place = table.schema.get_field_index("attacked")
    table = table.set_column(place, table.schema.field("attacked"), pa.array(attacked, pa.bool_()))
    pq.write_table(table, forged / "outcomes.parquet")
    manifest = json.loads((forged / "manifest.json").read_text())
    result = invoke(root, "verify", str(forged))
    assert result.return_value != 0 or result.exception is not None
    assert "n_eligible" in result.output
    assert "attacked: expected the images that the patch file names, found others" in result.output
    assert manifest["complete"]
