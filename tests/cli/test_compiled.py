"""A whole run whose networks are compiled gives the numbers of one whose are not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from qpatchbench.runs.layout import MANIFEST
from qpatchbench.types import Network
from tests.cli.conftest import TinyRuns


def test_training_and_crafting_come_to_the_same(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, limit, seen = torch.compile, sys.getrecursionlimit(), list[Network]()

    def without_machine_code(network: Network, *, dynamic: bool) -> Network:
        seen.append(network)
        sys.setrecursionlimit(2 * limit)  # as the compiler of machine code does
        return compiler(network, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", without_machine_code)
    torch.compiler.reset()
    fields = ("--set", "training.compile=true", "--set", "attacks.0.compile=true")
    options = ("--output", str(tmp_path / "out"), "--seeds", "0", "--display", "none", *fields)
    result = tiny_runs.invoke("run", str(tiny_runs.root / "tiny.yaml"), *options, cache=tmp_path / "cache")
    assert result.return_value == 0, result.output
    assert len(seen) == 3, "a training, and a patch on each of two sources"
    assert sys.getrecursionlimit() == limit
    asked = json.loads((tmp_path / "out" / MANIFEST).read_text())["resolved"]
    assert asked["training"]["compile"]
    assert [attack.get("compile", False) for attack in asked["attacks"]] == [True, False]
    plain, fused = (pd.read_csv(folder / "leaderboard.csv") for folder in (tiny_runs.first, tmp_path / "out"))
    counts = [name for name in plain if str(name).startswith("n_")]
    assert plain["n_fooled"].sum() > 20
    pd.testing.assert_frame_equal(plain[counts], fused[counts])
