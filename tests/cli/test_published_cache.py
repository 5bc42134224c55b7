"""A run on a new machine: its folder is empty, an address has all artifacts, and no job runs again."""

from __future__ import annotations

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
