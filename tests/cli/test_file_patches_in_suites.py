"""Patches from elsewhere in a suite: measured beside controls, said to be external, refused where they do not fit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.cli.conftest import TinyRuns
from tests.cli.running import ended

SUITE = """
suite: theirs
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 240, test_pool: 48, calibration_images: 16,
          craft_images: 24}
models: [resnet20]
training: {epochs: 1, batch_size: 32, learning_rate: 0.05, augmentation: none}
defenses: [none]
quantizers: [{name: ptq, bits: [32, 8]}]
attacks: [{name: file, file: sticker.png, targets: [2], origin: a friend, licence: CC0-1.0}]
evaluation: {images: 24}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "sticker.png")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "poster.png")
    (tmp_path / "pickled.npy").write_bytes(pickle.dumps(pixels))
    (tmp_path / "theirs.yaml").write_text(SUITE)
    return tmp_path


def told(folder: Path, *arguments: str) -> tuple[int, str]:
    done = ended(*arguments, folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    return done.returncode, done.stdout + done.stderr


def test_a_picture_is_measured_on_every_network(folder: Path) -> None:
    code, text = told(folder, "run", "theirs.yaml", "--display", "none")
    assert code == 0, text
    rows = pd.read_csv(folder / "results/theirs/leaderboard.csv")
    assert list(rows["lineage"]) == ["external", "external"]
    assert rows["source_bits"].isna().all()
    assert rows["asr_control"].notna().all()
    assert "elsewhere" in text
    assert (folder / "results/theirs/plots/bits_fake_4x4_from-elsewhere.png").is_file()
    assert (folder / "results/theirs/plots/patches_fake_file_4x4.png").is_file()
    manifest = json.loads((folder / "results/theirs/manifest.json").read_text())
    (entry,) = [entry for entry in manifest["patches"] if entry["attack"]["name"] == "file"]
    assert (entry["origin"], entry["licence"], entry["sources"]) == ("a friend", "CC0-1.0", [])
    code, text = told(folder, "verify", "results/theirs")
    assert code == 3, text
    assert "predictions: 6 of 6 cells made again on 2 of 2 networks, 0 of 144 predictions differ" in text
    code, text = told(folder, "explain", "results/theirs", "1")
    assert code == 0, text
    assert "file 4x4 made elsewhere, on resnet20 none fp@32" in text


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "sticker.png",
            "poster.png",
            "theirs.yaml:9:11: attacks[0].size: expected a patch that fits into the 8x8 images of fake, found 9x9",
        ),
        (
            "sticker.png",
            "pickled.npy",
            "theirs.yaml:9:11: attacks[0]: pickled.npy: expected an npy file, found a pickle, which is "
            "not read, since reading one runs code",
        ),
        (
            "targets: [2]",
            "targets: [3]",
            "theirs.yaml:9:53: attacks[0].targets[0]: expected class ids in 0..2 of fake, found 3",
        ),
        (
            "sticker.png",
            "stiker.png",
            "theirs.yaml:9:11: attacks[0]: expected a patch file, found none at {0}/stiker.png. Patches there: "
            "pickled.npy, poster.png, sticker.png.",
        ),
    ],
)
def test_what_does_not_fit_is_said_with_its_line(before: str, after: str, message: str, folder: Path) -> None:
    (folder / "theirs.yaml").write_text(SUITE.replace(before, after))
    assert told(folder, "validate", "theirs.yaml") == (
        2,
        f"{message.format(folder)}\ntheirs.yaml: invalid, 1 error\n",
    )


def test_patches_of_another_run(folder: Path, tiny_runs: TinyRuns) -> None:
    text = "".join(line for line in SUITE.splitlines(keepends=True) if not line.startswith("attacks"))
    (folder / "theirs.yaml").write_text(f"{text}patches_from: {tiny_runs.first}\n")
    code, told_of = told(folder, "run", "theirs.yaml", "--display", "none")
    assert code == 0, told_of
    rows = pd.read_csv(folder / "results/theirs/leaderboard.csv")
    assert set(rows["attack"]) == {"lavan on resnet20 qat fp@32, seed 0", "lavan on resnet20 qat qat@4, seed 0"}
    assert set(rows["lineage"]) == {"external"}
    manifest = json.loads((folder / "results/theirs/manifest.json").read_text())
    origins = {entry["origin"] for entry in manifest["patches"] if "origin" in entry}
    assert "run tiny: lavan 4x4 on resnet20 qat fp@32, seed 0" in origins
    (folder / "theirs.yaml").write_text(f"{SUITE}patches_from: nowhere\n")
    code, told_of = told(folder, "validate", "theirs.yaml")
    assert code == 2
    assert told_of == (
        "theirs.yaml:11:15: patches_from: expected the folder of a finished run, found no "
        f"{folder}/nowhere/manifest.json.\ntheirs.yaml: invalid, 1 error\n"
    )


def test_workers_find_the_files_of_the_suite(folder: Path) -> None:
    (folder / "suites").mkdir()
    for name in ("theirs.yaml", "sticker.png"):
        (folder / name).rename(folder / "suites" / name)
    code, text = told(
        folder, "run", "suites/theirs.yaml", "--display", "none", "--executor", "process", "--workers", "1"
    )
    assert code == 0, text
    rows = pd.read_csv(folder / "results/theirs/leaderboard.csv")
    assert list(rows["lineage"]) == ["external", "external"]
