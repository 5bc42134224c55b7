"""A whole run with maps and costs by width, and its figures, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file

from qpatchbench.cli import cli
from qpatchbench.errors import ArtifactError

SUITE = """
suite: mapped
dataset: {name: fake, image_size: 16, classes: 3, train_pool: 40, test_pool: 20, calibration_images: 8, craft_images: 8}
models: [resnet20]
training: {epochs: 1, batch_size: 8, learning_rate: 0.05, augmentation: none}
defenses: [qat]
quantizers: [{name: qat, bits: [32, 2]}]
attacks: [{name: lavan, size: 4, targets: [1], steps: 2, batch_size: 4}]
transfer: {sources: [32]}
analysis: {costs: qat, fewer_bits: true, maps: 2, images: 6}
evaluation: {images: 8, checks: "off"}
"""


def call(root: Path, *arguments: str) -> Result:
    """A command in this process; errors of ours are kept in the result."""
    environment = {"QPATCHBENCH_CACHE": str(root / "cache"), "QPATCHBENCH_DATA": None}
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False, env=environment)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where SUITE was run into the folder out."""
    root = tmp_path_factory.mktemp("mapped")
    (root / "mapped.yaml").write_text(SUITE)
    result = call(root, "run", str(root / "mapped.yaml"), "--output", str(root / "out"), "--display", "plain")
    assert result.exception is None, result.output
    return root


@pytest.fixture(scope="module")
def drawn(root: Path) -> str:
    """What drawing all three figures said; the files are in the folder figures."""
    said = ""
    for name in ("features", "gradients", "gradcam"):
        result = call(root, "figure", name, "--run", str(root / "out"), "--output", str(root / "figures"))
        assert result.exception is None, result.output
        said += result.stdout
    return said


def test_every_width_has_its_cost(root: Path) -> None:
    costs = pd.read_parquet(root / "out" / "costs.parquet")
    assert costs[["bits", "widths", "all_widths"]].to_numpy().tolist() == [["32 2", 2, True], ["32", 1, False]]
    assert costs["relative_time"].iloc[0] == 1
    assert costs["relative_time"].iloc[1] < 1, "one width of two"


def test_the_maps_are_those_of_the_networks(root: Path) -> None:
    arrays = load_file(root / "out" / "maps.safetensors")
    assert arrays["0/pixels/clean"].shape == (2, 3, 16, 16)
    changed = (arrays["0/pixels/clean"] != arrays["0/pixels/patched"]).any(axis=1).sum(axis=(1, 2))
    assert (changed > 0).all()
    assert (changed <= 16).all(), "a patch of 4x4"
    moved = np.abs(arrays["0/pixels/perturbed"].astype(int) - arrays["0/pixels/clean"])
    assert 0 < moved.max() <= 8
    for bits in ("32", "2"):
        for content in ("clean", "patched", "perturbed"):
            gradient = arrays[f"0/gradients/{content}/{bits}"]
            assert gradient.shape == (2, 3, 16, 16)
            assert np.abs(gradient).max() == 1
        cams = arrays[f"0/cams/clean/{bits}"]
        assert cams.shape == (2, 4, 4)
        assert 0 <= cams.min() <= cams.max() <= 1
    assert len([name for name in arrays if name.startswith("0/features/")]) == 2 * 2 * 3
    assert arrays["0/gradients/cosine/clean/32"] == pytest.approx(1)
    assert arrays["0/gradients/cosine/clean/2"].max() < 0.999


def test_the_tables_cover_every_content(root: Path) -> None:
    gradients = pd.read_parquet(root / "out" / "gradients.parquet")
    assert set(gradients["images"]) == {"clean", "patched", "perturbed"}
    cams = pd.read_parquet(root / "out" / "gradcam.parquet")
    assert set(cams["images"]) == {"clean", "patched"}
    assert set(cams["metric"]) == {"cosine", "iou"}
    assert set(cams["layer"]) == {"backbone.layer3"}
    for table in (gradients, cams):
        assert set(table["bits"]) == {"2"}
        assert set(table["reference_bits"]) == {"32"}
        assert set(table["n_images"]) == {6}
        assert set(table["defense"]) == {"qat"}


def test_gradients_are_tables_to_read(root: Path) -> None:
    table = pd.read_parquet(root / "out" / "gradients.parquet")
    written = pd.read_csv(root / "out" / "gradients.csv")
    assert written["value"].tolist() == pytest.approx(table["value"].tolist(), abs=1e-4)
    lines = [
        line.split(" | ") for line in (root / "out" / "gradients.md").read_text().splitlines() if "| resnet20" in line
    ]
    assert [cells[6] for cells in lines] == ["clean", "patched", "perturbed"]
    cosines = table[table["metric"] == "cosine"]
    shown = [tuple(map(float, cells[7].split(" ± "))) for cells in lines]
    assert [value for value, _ in shown] == pytest.approx(cosines["value"].tolist(), rel=0.01)
    assert [error for _, error in shown] == pytest.approx(cosines["standard_error"].tolist(), rel=0.1)


def test_the_table_of_a_picture_is_that_of_all_images(root: Path) -> None:
    """Rows are means over six images, of which the first two are kept: the mean of two cannot be far out of range."""
    arrays = load_file(root / "out" / "maps.safetensors")
    table = pd.read_parquet(root / "out" / "gradients.parquet")
    kept = arrays["0/gradients/mse/clean/2"]
    (mean,) = table[(table["images"] == "clean") & (table["metric"] == "mse")]["value"].tolist()
    assert kept.sum() <= 6 * mean * (1 + 1e-6), "no error is negative"


def test_nothing_is_done_twice(root: Path) -> None:
    before = (root / "out" / "maps.safetensors").read_bytes()
    (root / "out" / "maps.safetensors").unlink()
    result = call(root, "run", str(root / "mapped.yaml"), "--output", str(root / "out"), "--display", "plain")
    assert result.exception is None, result.output
    assert "already done" in result.output
    assert (root / "out" / "maps.safetensors").read_bytes() == before
    planned = call(root, "plan", str(root / "mapped.yaml")).output
    assert "maps: 1 jobs, 1 done" in planned
    assert "  of resnet20 qat [32 2], seed 0" in planned


def test_the_manifest_names_the_files(root: Path) -> None:
    manifest = json.loads((root / "out" / "manifest.json").read_text())
    assert {"maps.safetensors", "gradients.parquet", "gradcam.parquet", "costs.parquet"} <= set(manifest["files"])


def test_figures_are_drawn(root: Path, drawn: str) -> None:
    names = sorted(path.name for path in (root / "figures").iterdir())
    features = [name for name in names if name.startswith("features_")]
    assert len(features) == 4, "two images, each as PDF and PNG"
    assert len(names) == 8
    for name in names:
        assert name in drawn
        data = (root / "figures" / name).read_bytes()
        if name.endswith(".png"):
            assert data.startswith(b"\x89PNG")
        else:
            assert b"/FontFile2" in data, "fonts are embedded"
            assert b"/Type3" not in data


def bare_folder(root: Path, path: Path) -> Path:
    """A run folder without analyses."""
    path.mkdir()
    for name in ("manifest.json", "leaderboard.csv"):
        (path / name).write_bytes((root / "out" / name).read_bytes())
    return path


@pytest.mark.parametrize("name", ["features", "gradients", "gradcam"])
def test_a_run_without_maps_says_what_to_add(root: Path, tmp_path: Path, name: str) -> None:
    result = call(root, "figure", name, "--run", str(bare_folder(root, tmp_path / "bare")))
    assert isinstance(result.exception, ArtifactError)
    assert f"no data for {name}: a suite that makes it states analysis: {{maps: 4}}" in str(result.exception)


def test_damaged_maps_are_an_error(root: Path, tmp_path: Path) -> None:
    folder = bare_folder(root, tmp_path / "damaged")
    (folder / "maps.safetensors").write_bytes(b"no tensors at all")
    result = call(root, "figure", "features", "--run", str(folder))
    assert "damaged maps" in str(result.exception)
    (folder / "maps.safetensors").write_bytes((root / "out" / "maps.safetensors").read_bytes())
    result = call(root, "figure", "gradcam", "--run", str(folder))
    assert "gradcam.parquet: expected the means beside maps.safetensors" in str(result.exception)
