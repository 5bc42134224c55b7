"""`qpatchbench export`: a trained network of a finished run as an ONNX file, with what onnxruntime makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import TinyRuns


def exported(tiny_runs: TinyRuns, *arguments: str) -> tuple[int, str]:
    result = tiny_runs.invoke("export", str(tiny_runs.first), *arguments)
    code = result.return_value if result.exception is None else 2
    return code, result.output + str(result.exception or "")


@pytest.fixture(scope="module")
def checkpoint(tiny_runs: TinyRuns) -> str:
    return str(json.loads((tiny_runs.first / "manifest.json").read_text())["checkpoints"][0]["key"])


def test_a_trained_network_is_written_and_compared(tiny_runs: TinyRuns, checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    code, text = exported(tiny_runs, checkpoint[:16], "qat", "4", "--output", str(path), "--images", "40")
    assert path.stat().st_size > 100_000, text
    assert "resnet20 qat qat@4, seed 0" in text
    assert "onnxruntime agrees on " in text
    assert " of 40 predictions" in text
    assert "beyond rounding" in text or "by more than one" in text
    agreeing = int(text.partition("agrees on ")[2].partition(" ")[0])
    assert code == (0 if agreeing == 40 else 1), text


def test_what_the_run_lacks_is_named(tiny_runs: TinyRuns, checkpoint: str, tmp_path: Path) -> None:
    output = ("--output", str(tmp_path / "none.onnx"))
    code, text = exported(tiny_runs, "resnet20 pbat", "qat", "4", *output)
    assert code == 2
    assert f"no checkpoint 'resnet20 pbat' in this run. Available: {checkpoint[:16]} (resnet20 qat" in text
    code, text = exported(tiny_runs, checkpoint, "ptqq", "8", *output)
    assert "no quantizer 'ptqq' in this run. Did you mean: ptq?" in text
    code, text = exported(tiny_runs, checkpoint, "qat", "8", *output)
    assert "checkpoint was not trained at 8 bits" in text
    code, text = exported(tiny_runs, checkpoint, "ptq", "w1", *output)
    assert "expected a bit-width such as 4 or w4a8, found 'w1'" in text
    assert not (tmp_path / "none.onnx").exists()
