"""What a run takes of the disk, beside what its plan had said; and warnings where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qpatchbench.data.cache import read_sealed
from qpatchbench.suite.needs.experience import DISK, FILE
from tests.cli.conftest import TinyRuns


def planned(runs: TinyRuns, cache: Path) -> dict[str, dict[str, float]]:
    found = runs.invoke("plan", str(runs.root / "tiny.yaml"), "--seeds", "0", "--json", cache=cache)
    told: dict[str, dict[str, float]] = json.loads(found.output)
    return told


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_plan_is_right_about_the_disk(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    expected = planned(tiny_runs, tmp_path)["disk"]
    assert expected["results"] == pytest.approx(size(tiny_runs.first), rel=0.3)
    kinds = ("train", "snapshot", "deploy", "craft", "evaluate", "datasets")
    # The cache has the jobs of two seeds, and their images once.
    images = size(tiny_runs.cache / "datasets")
    taken = sum(size(tiny_runs.cache / kind) for kind in kinds) - images
    assert expected["stored"] == pytest.approx(taken / 2 + images, rel=0.3)


def test_a_run_remembers_what_its_jobs_took(tiny_runs: TinyRuns) -> None:
    known = read_sealed(tiny_runs.cache / FILE)
    assert known is not None
    disk, (place,) = known[DISK], set(known) - {DISK}
    assert "train / resnet20 / quantized" in disk
    assert all(0.6 < ratio < 1.5 for ratio in disk.values()), disk
    assert all(0.5 < ratio < 5 for ratio in known[place].values()), known[place]


def test_a_full_disk_is_told_by_plan_and_by_run(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qpatchbench.suite.needs.plan_needs.free_bytes", lambda folder: 10_000)
    warning = "warning: " + f"{tiny_runs.cache}: expected room for about"
    assert warning in tiny_runs.invoke("plan", str(tiny_runs.root / "tiny.yaml"), "--seeds", "5").output
    assert warning in tiny_runs.invoke(
        *("run", str(tiny_runs.root / "tiny.yaml"), "--output", str(tmp_path / "out"), "--display", "plain"),
        *("--seeds", "0", "--set", "evaluation.images=24", "--overwrite"),
    ).output  # fmt: skip
