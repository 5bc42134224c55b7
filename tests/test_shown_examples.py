"""Python and suites that documents show are run as they are shown, on fewer and smaller images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from art.attacks.evasion import AdversarialPatchPyTorch
from art.estimators.classification import PyTorchClassifier
from PIL import Image

import qpatchbench
from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.models.module import ModuleModel
from qpatchbench.suite.file.load import load_suite
from tests.cli.own_networks import own_network
from tests.cli.running import ended

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DIGITS = "{name: digits, image_size: 32, calibration_images: 32, craft_images: 32}"
FAKE = (
    "{name: fake, image_size: 64, classes: 10, train_pool: 80, test_pool: 60, calibration_images: 16, craft_images: 16}"
)
MOST_LINES = 15


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of one's own, a picture and a patch of ART."""
    own_network(tmp_path, 10)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 4), dtype=np.uint8)
    pixels[..., 3] = 255 * (np.hypot(*np.mgrid[-24.5:25, -24.5:25]) < 25)
    Image.fromarray(pixels).save(tmp_path / "sticker.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def art_attack(network: torch.nn.Module, side: int) -> AdversarialPatchPyTorch:
    """A patch of 5 pixels for class 3, after two steps."""
    shape = (3, side, side)
    classifier = PyTorchClassifier(network, torch.nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1))
    return AdversarialPatchPyTorch(
        classifier, patch_shape=(3, 5, 5), max_iter=2, batch_size=8, scale_min=0.3, scale_max=0.5, verbose=False
    )


def rows_of(folder: Path, suite: str, dataset: str) -> pd.DataFrame:
    """The leaderboard of a suite as a page has it, its images and steps fewer."""
    assert len(suite.splitlines()) <= MOST_LINES
    name = re.findall(r"^suite: (\w+)$", suite, re.MULTILINE)[0]
    (folder / f"{name}.yaml").write_text(suite.replace("{name: cifar10}", dataset))
    fewer = ["--set", "evaluation.images=20", "--set", "quantizers.0.bits=[32, 8]"]
    fewer += ["--set", "attacks.0.steps=3"] if "lavan" in suite else []
    done = ended(
        "run", f"{name}.yaml", *fewer, "--display", "none", folder=folder, QPATCHBENCH_CACHE=str(folder / "cache")
    )
    assert done.returncode == 0, done.stderr
    return pd.read_csv(folder / f"results/{name}/leaderboard.csv")


def test_a_network_of_ones_own_in_a_suite(folder: Path) -> None:
    rows = rows_of(folder, blocks("docs/patches.md", "yaml")[0], DIGITS)
    assert set(rows["target_bits"]) == {32, 8}
    assert set(rows["lineage"]) == {"same-network", "shared-weights"}


def test_a_picture_of_50x50_pixels_in_a_suite(folder: Path) -> None:
    rows = rows_of(folder, blocks("docs/patches.md", "yaml")[1], FAKE)
    assert set(rows["lineage"]) == {"external"}
    assert set(rows["patch_height"]) == {50}
    assert len(rows) == 2


def test_a_patch_of_art_in_a_suite(folder: Path) -> None:
    model = ModuleModel(source="my_net.py:build", weights="my.pt")
    x = np.random.default_rng(0).random((8, 3, 32, 32), dtype=np.float32)
    y = np.eye(10, dtype=np.float32)[[3] * 8]
    patch, mask = art_attack(model.load(10, 32).eval(), 32).generate(x, y)
    np.savez("art.npz", patch=patch, mask=mask)
    whole, attacks = blocks("docs/patches.md", "yaml")[1], blocks("docs/patches.md", "yaml")[2]
    suite = re.sub(r"attacks:\n  - .*\n", lambda _: attacks, whole)
    assert "art.npz" in suite
    rows = rows_of(folder, suite, DIGITS)
    assert set(rows["lineage"]) == {"external"}
    assert set(rows["patch_height"]) == {5}


def test_the_lines_of_python_run(folder: Path) -> None:
    first, second, third = blocks("docs/python.md", "python")
    assert max(len(block.splitlines()) for block in (first, second, third)) <= 5
    draws = torch.Generator().manual_seed(0)
    pixels = torch.rand(20, 3, 32, 32, generator=draws)
    my_net = ModuleModel(source="my_net.py:build", weights="my.pt").load(10, 32).eval().get_submodule("backbone")
    names: dict[str, Any] = {
        "qpatchbench": qpatchbench,
        "my_net": my_net,
        "calibration_images": pixels,
        "crafting_images": pixels,
        "crafting_labels": torch.arange(20) % 10,
        "images": pixels,
        "labels": torch.arange(20) % 10,
    }
    exec(first.replace("steps=200", "steps=2, batch_size=4"), names)
    assert names["found"].patched.shape == (1, 20)
    names["images"] = torch.rand(20, 3, 64, 64, generator=draws)
    exec(second, names)
    assert names["found"].counts[0].goal == "3"
    names |= {"images": pixels, "art_attack": art_attack(names["network"], 32)}
    exec(third, names)
    assert names["mask"].shape == names["patch"].shape
    assert names["found"].counts[0].goal == "3"


def test_the_pieces_of_suites_are_read(tmp_path: Path) -> None:
    heart, *pieces = (yaml.safe_load(piece) for piece in blocks("docs/suites.md", "yaml"))
    whole = yaml.safe_load((ROOT / "suites/quickstart.yaml").read_text(encoding="utf-8"))
    for section, said in heart.items():
        assert all(item in whole[section] for item in said) if isinstance(said, list) else said == whole[section]
    assert len(pieces) == 2
    for piece in ({}, *pieces):
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"suite": "mine", **heart, "dataset": "cifar10", **piece}))
        suite = load_suite(tmp_path / "suite.yaml")
        assert all(getattr(suite, section) for section in piece)


def test_the_checks_of_contributing_are_tests() -> None:
    (block,) = blocks("CONTRIBUTING.md", "python")
    names: dict[str, Any] = {"MyDefense": QuantizationAwareTraining}
    exec(block.replace('"my_defense"', '"qat"'), names)
    (mark,) = names["test_conformance"].pytestmark
    checks = [parameters.values for parameters in mark.args[1]]
    assert len(checks) >= 10
    names["test_conformance"](*checks[0])


def what_is_left_of(notebook: str) -> dict[str, Any]:
    """Names that a notebook has given when all its cells have run; it is kept without outputs."""
    cells = json.loads((DOCS / notebook).read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        for cell in cells:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), notebook, "exec"), names)
    return names


def test_the_tutorial_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(folder / "cache"))
    names = what_is_left_of("tutorial.ipynb")
    accuracy = names["found"].clean_accuracy
    assert accuracy > 80
    assert names["found"].asr > names["found"].asr_control
    assert len(names["table"]) == 9
    assert names["run"].errors == {}
    assert len(names["run"].rows) == 5


def test_a_row_by_hand_is_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_hand = what_is_left_of("one-row-by-hand.ipynb")["by_hand"]
    assert sorted(by_hand.index) == ["32", "w4a32"]
    assert (by_hand["n_eligible"] > 100).all()
    assert (by_hand["n_fooled"] > 0).all()
