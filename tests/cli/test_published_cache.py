"""A run on a new machine: its folder is empty, an address has all artifacts, and no job runs again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qpatchbench.runs.layout import CELLS, OUTCOMES
from qpatchbench.suite.store.published_store import opened_store
from qpatchbench.suite.store.store import Store
from tests.cli.conftest import TinyRuns


def publish(cache: Path, folder: Path, url: str) -> list[Path]:
    """What a cache holds of finished artifacts, published from another folder."""
    source, target = Store(cache), opened_store(folder, url)
    marks = [path for path in cache.glob("*/??/*.json") if path.parts[-3] not in ("snapshot", "datasets")]
    for path in marks:
        kind, key = path.parts[-3], path.stem
        target.write(kind, key, source.read(kind, key))
    return marks


def test_a_new_machine_does_no_job_again(tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path / 'shared'}"
    assert publish(tiny_runs.cache, tmp_path / "old", url)
    monkeypatch.setenv("QPATCHBENCH_LOCAL", str(tmp_path / "new"))
    suite, output = str(tiny_runs.root / "tiny.yaml"), tmp_path / "out"
    result = tiny_runs.invoke(
        *("run", suite, "--output", str(output), "--seeds", "0", "--display", "plain"), cache=url  # type: ignore[arg-type]
    )  # fmt: skip
    assert result.return_value == 0, result.output
    assert "25 jobs, 25 already done" in result.output
    assert not list((tmp_path / "new").glob("snapshot/*")), "nothing was trained"
    for name in (CELLS, OUTCOMES, "leaderboard.csv"):
        assert (output / name).read_bytes() == (tiny_runs.first / name).read_bytes(), name
    planned = tiny_runs.invoke("plan", suite, "--seeds", "0", cache=url)  # type: ignore[arg-type]
    assert "to do" not in planned.output


def test_a_network_deployed_again_elsewhere_leaves_finished_cells_alone(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    """Another processor answers otherwise for an image on the edge; the counts of a cell rest on its own answers."""
    cache = tmp_path / "cache"
    shutil.copytree(tiny_runs.cache, cache)
    store = Store(cache)
    networks = [path.stem for path in cache.glob("deploy/??/*.json")]
    assert networks
    for key in networks:
        found = store.read("deploy", key)
        answers = found.arrays["predictions"].copy()
        answers[0] = (answers[0] + 1) % 10
        store.write("deploy", key, replace(found, arrays={**found.arrays, "predictions": answers}))
    output = tmp_path / "out"
    result = tiny_runs.invoke(
        "run",
        str(tiny_runs.root / "tiny.yaml"),
        "--output",
        str(output),
        "--seeds",
        "0",
        "--display",
        "plain",
        cache=cache,
    )
    assert result.return_value == 0, result.output
    for name in (CELLS, OUTCOMES, "leaderboard.csv"):
        assert (output / name).read_bytes() == (tiny_runs.first / name).read_bytes(), name
