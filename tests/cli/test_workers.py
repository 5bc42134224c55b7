"""Two worker processes, one of which is killed in the middle of a job, give what one process gives, byte for byte."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from qpatchbench.runs.layout import CELLS, OUTCOMES
from qpatchbench.suite.execution.workers.dispatcher import Dispatcher
from qpatchbench.suite.execution.workers.messages import Message, Progressed
from tests.cli.conftest import TinyRuns

SAME = (CELLS, OUTCOMES, "leaderboard.csv")


def test_killed_workers_change_no_byte(tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    hear = Dispatcher._hear
    killed: list[int] = []

    def hear_and_kill(self: Dispatcher, number: int, message: Message) -> None:
        hear(self, number, message)
        if isinstance(message, Progressed) and not killed:
            (process,) = [each for each in multiprocessing.active_children() if each.name == f"worker {number}"]
            process.kill()
            killed.append(number)

    monkeypatch.setattr(Dispatcher, "_hear", hear_and_kill)
    result = tiny_runs.invoke(
        *("run", str(tiny_runs.root / "tiny.yaml"), "--output", str(tmp_path / "out"), "--seeds", "0"),
        *("--executor", "process", "--workers", "2", "--display", "plain"),
        cache=tmp_path / "cache",
    )
    assert result.return_value == 0, result.output
    assert len(killed) == 1
    assert "which runs once more" in result.output
    assert multiprocessing.active_children() == []
    for name in SAME:
        assert (tmp_path / "out" / name).read_bytes() == (tiny_runs.first / name).read_bytes(), name


def test_workers_are_for_the_process_executor(tiny_runs: TinyRuns) -> None:
    result = tiny_runs.invoke("run", str(tiny_runs.root / "tiny.yaml"), "--workers", "2")
    assert "only --executor process and ray have workers" in str(result.exception)
