"""A whole run with a patch pool, an ensemble, a random network and both analyses, through the command line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.cli.running import ended

SUITE = """
suite: defended
dataset: {name: fake, image_size: 16, classes: 3, train_pool: 160, test_pool: 30, calibration_images: 16,
          craft_images: 24}
models: [resnet20]
training: {epochs: 1, batch_size: 16, learning_rate: 0.05, augmentation: none}
finetuning: {epochs: 1, images_per_epoch: 32, batch_size: 16, learning_rate: 0.01, augmentation: none}
defenses: [qat, triqdef, empir]
quantizers:
  - {name: qat, bits: [32, 8, 2]}
  - {name: random_precision, bits: [8]}
pool:
  seen: [{name: lavan, size: 4, targets: untargeted, steps: 3, batch_size: 4}]
  unseen: [{name: gap, size: 5, targets: untargeted, steps: 3, batch_size: 4}]
  unseen_quantizer: {name: ptq, bits: [4]}
attacks: [{name: lavan, size: 4, targets: untargeted, steps: 3, batch_size: 4}]
transfer: {sources: [same]}
analysis: {costs: qat, similarity: true, images: 8}
evaluation: {images: 30}
exclude: [{defense: empir, quantizer: random_precision}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of SUITE."""
    root = tmp_path_factory.mktemp("defended")
    (root / "defended.yaml").write_text(SUITE)
    arguments = ("run", "defended.yaml", "--output", "out", "--display", "plain")
    done = ended(*arguments, folder=root, QPATCHBENCH_CACHE=str(root / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "out"


@pytest.fixture(scope="module")
def board(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "leaderboard.csv", dtype={"target_bits": str, "source_bits": str})


def test_seen_and_unseen_are_rows_of_every_network(board: pd.DataFrame) -> None:
    pooled = board[board["seen"].notna()]
    assert set(pooled["source_defense"]) == {"none"}
    expected = {("lavan", 4, "32", "seen"), ("gap", 5, "4", "unseen")}
    for _, rows in pooled.groupby(["defense", "quantization", "target_bits"]):
        assert (
            set(zip(rows["attack"], rows["patch_height"], rows["source_bits"], rows["seen"], strict=True)) == expected
        )
    networks = set(zip(pooled["defense"], pooled["quantization"], pooled["target_bits"], strict=True))
    trained = {(defense, "qat", bits) for defense in ("qat", "triqdef", "empir") for bits in ("8", "2")}
    floats = {(defense, "fp", "32") for defense in ("qat", "triqdef", "empir")}
    assert networks == trained | floats | {(name, "random_precision", "8") for name in ("qat", "triqdef")}


def test_white_box_rows_are_neither(board: pd.DataFrame) -> None:
    own = board[board["source_defense"] == board["defense"]]
    assert len(own) == 11
    assert own["seen"].isna().all()


def test_every_row_was_measured(board: pd.DataFrame) -> None:
    assert (board["status"] == "ok").all()
    assert (board["n_images"] == 30).all()


def test_costs_are_relative_to_qat(folder: Path) -> None:
    costs = pd.read_csv(folder / "costs.csv")
    time, memory = (
        dict(zip(costs["defense"], costs[name].tolist(), strict=True)) for name in ("relative_time", "relative_memory")
    )
    assert set(time) == {"qat", "triqdef", "empir"}
    assert time["qat"] == memory["qat"] == 1
    assert time["triqdef"] > time["empir"], "three widths, two similarities and second derivatives against one width"
    assert memory["empir"] < 1, "one width at a time"
    assert "relative to qat" in (folder / "costs.md").read_text()


def test_similarities_cover_every_pair(folder: Path) -> None:
    rows = pd.read_csv(folder / "similarity.csv", dtype={"first_bits": str, "second_bits": str})
    assert set(rows["defense"]) == {"qat", "triqdef"}
    pairs = set(zip(rows["first_bits"], rows["second_bits"], strict=True))
    assert pairs == {("32", "8"), ("32", "2"), ("8", "2")}
    assert set(rows["images"]) == {"clean", "patched"}
    assert {"input gradient", "backbone.conv1"} <= set(rows["layer"]), sorted(set(rows["layer"]))
    close = rows[(rows["second_bits"] == "8") & (rows["layer"] == "input gradient") & (rows["metric"] == "cosine")]
    far = rows[(rows["second_bits"] == "2") & (rows["layer"] == "input gradient") & (rows["metric"] == "cosine")]
    assert close["value"].mean() > far["value"].mean()
    assert "above chance" in (folder / "similarity.md").read_text()


def test_the_report_writes_the_analyses_again(folder: Path) -> None:
    names = ("costs.csv", "costs.md", "similarity.csv", "similarity.md")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    assert ended("report", "out", "--format", "csv,md", folder=folder.parent).returncode == 0
    assert {name: (folder / name).read_bytes() for name in names} == before
