"""A network of one's own in a suite: the file, the checkpoint, paths from the suite's folder, rows that say whose."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.own_networks import own_network
from tests.cli.running import ended

SUITE = """
suite: mine
dataset: {name: digits, image_size: 16, calibration_images: 32, craft_images: 32}
models: [{name: module, source: net/my_net.py:build, weights: net/my.pt, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}]
defenses: [none]
quantizers: [{name: ptq, bits: [32, 8]}]
attacks: [{name: lavan, size: 4, steps: 3, batch_size: 8, targets: [3]}]
transfer: {sources: [32]}
evaluation: {images: 40}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own_network(tmp_path / "suite/net", 10)
    (tmp_path / "suite/mine.yaml").write_text(SUITE)
    return tmp_path


def test_a_suite_from_another_folder(folder: Path) -> None:
    cache = {"QPATCHBENCH_CACHE": str(folder / "cache")}
    done = ended("run", "suite/mine.yaml", "--display", "none", folder=folder, **cache)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((folder / "results/mine/manifest.json").read_text())
    (plugin,) = manifest["plugins"]
    assert (plugin["component"], plugin["package"], len(plugin["sha256"])) == ("model module", "my_net.py", 64)
    rows = pd.read_csv(folder / "results/mine/leaderboard.csv")
    assert set(rows["model"]) == {"module"}
    # Elsewhere, from another working folder: nothing is computed twice.
    (folder / "suite").rename(folder / "moved")
    again = ended("run", "mine.yaml", "--display", "none", "--output", "out", folder=folder / "moved", **cache)
    assert again.returncode == 0, again.stderr
    jobs = [
        json.loads((path / "manifest.json").read_text())["jobs"]
        for path in (folder / "results/mine", folder / "moved/out")
    ]
    assert [job["key"] for job in jobs[0]] == [job["key"] for job in jobs[1]]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("weights: net/my.pt", "weights: net/mine.pt", "weights 'suite/net/mine.pt': no file"),
        ("net/my_net.py:build", "net/mynet.py:build", "Python files there: blocks.py, my_net.py."),
        ("net/my_net.py:build", "net/my_net.py", "expected file.py:function, such as my_net.py:build"),
        ("name: digits", "name: fake, classes: 7", "head.weight expected 7x16 found 10x16"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(before: str, after: str, message: str, folder: Path) -> None:
    (folder / "suite/mine.yaml").write_text(SUITE.replace(before, after))
    done = ended("run", "suite/mine.yaml", "--display", "none", folder=folder, QPATCHBENCH_CACHE=str(folder / "cache"))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("suite/mine.yaml:4:")


def test_verify_runs_no_code_because_a_manifest_names_it(folder: Path) -> None:
    cache = {"QPATCHBENCH_CACHE": str(folder / "cache")}
    assert ended("run", "suite/mine.yaml", "--display", "none", folder=folder, **cache).returncode == 0
    refused = ended("verify", "results/mine", folder=folder, **cache)
    assert refused.returncode == 3, refused.stdout
    assert (
        "predictions: not made again: the manifest's model module is code, which is not run because a manifest names "
        "it: allow it with --run-code, of a run that you trust"
    ) in refused.stdout
    trusted = ended("verify", "results/mine", "--run-code", folder=folder, **cache)
    assert trusted.returncode == 3, trusted.stdout + trusted.stderr
    assert "predictions: not made again" not in trusted.stdout
