"""`qpatchbench table` and `qpatchbench list tables`."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qpatchbench.papers.printed.published_tables import published_tables
from qpatchbench.runs.layout import LEADERBOARD
from tests.cli.running import ended
from tests.cli.test_commands import ROOT, invoke

SMALL = """\
dataset,model,defense,preprocessor,quantization,attack,patch_height,patch_width,area_percent,source_model,\
source_defense,source_quantization,source_bits,target_bits,seen,transformation,seeds,n_images,n_eligible,asr,asr_low,asr_high,\
clean_accuracy,robust_accuracy,checks,status
cifar10,resnet20,qat,none,qat,lavan,6,6,3.5,resnet20,qat,fp,32,8,,,1,10000,9000,83.5,83.0,84.0,80.0,20.0,ok,ok
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What was published of a run that measured one cell of table 1."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"dataset_note": "cifar10"}))
    (folder / LEADERBOARD).write_text(SMALL)
    return folder


def test_the_published_tables_are_listed() -> None:
    rows = json.loads(invoke("list", "tables", "--json").output)
    assert [row["name"] for row in rows] == list(published_tables())
    assert all(set(row) == {"name", "summary", "reference", "plugin"} for row in rows)
    assert invoke("list", "table").output.splitlines()[4].startswith("triqdef.5   ASR of LAVAN, GAP and PatchAttack")


@pytest.mark.parametrize("arguments", [["list", "tables"], ["table", "--help"], ["table", "contradictions"]])
def test_informing_loads_no_torch(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["qpatchbench", *{arguments!r}]
from qpatchbench.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "torch._C" not in sys.modules
if sys.argv[2] != "contradictions":
    assert "pandas" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_table_beside_a_run(run: Path) -> None:
    text = invoke("table", "triqdef.1", "--run", str(run)).output
    assert "| Res-20 | - / 87.22 | 83.5 [83.0, 84.0] / 83.73 = |" in text
    assert "Of 32 published numbers: 1 holds, 31 not measured." in text
    assert "T01 (within): VGG swap" in text


def test_the_first_run_wins(run: Path) -> None:
    other = run.with_name("other")
    other.mkdir()
    (other / "manifest.json").write_text(json.dumps({"dataset_note": "cifar10"}))
    (other / LEADERBOARD).write_text(SMALL.replace("83.5,83.0,84.0", "10,9,11").replace("32,8,,", "32,4,,"))
    result = invoke("table", "triqdef.1", "--run", str(run), "--run", str(other), "--format", "csv")
    rows = [row for row in csv.DictReader(io.StringIO(result.output)) if row["measured"]]
    assert [(row["target_bits"], row["measured"], row["run"]) for row in rows] == [
        ("8", "83.5", str(run)), ("4", "10", str(other)),
    ]  # fmt: skip


def test_a_stand_in_measures_another_row(run: Path) -> None:
    text = invoke("table", "triqdef.1", "--run", str(run), "--stand-in", "resnet56=resnet20").output
    assert "| Res-56 | - / 86.43 | 83.5 [83.0, 84.0] / 83.24 ? |" in text
    assert "architecture: resnet20 instead of resnet56" in text


@pytest.mark.parametrize("form", ["csv", "md", "tex"])
def test_all_tables_are_files_of_a_folder(run: Path, tmp_path: Path, form: str) -> None:
    begun = time.process_time()
    result = invoke("table", "all", "--run", str(run), "--format", form, "--output", str(tmp_path / "out"))
    assert result.exception is None
    assert time.process_time() - begun < 10
    names = [tmp_path / "out" / f"{name}.{form}" for name in published_tables()]
    assert result.output.splitlines() == [str(path) for path in names]
    assert sorted((tmp_path / "out").iterdir()) == sorted(names)
    alone = invoke("table", "qadtr.19", "--run", str(run), "--format", form).output
    assert (tmp_path / "out" / f"qadtr.19.{form}").read_text() == alone


def test_all_published_numbers_in_one_stream() -> None:
    result = invoke("table", "all", "--published-only", "--format", "csv")
    assert len(list(csv.reader(io.StringIO(result.output)))) == 1034
    text = invoke("table", "all", "--published-only").output
    assert text.count("\n## ") + text.startswith("## ") == 39
    assert invoke("table", "all", "--published-only", "--format", "tex").output.count("\\documentclass") == 1


def test_one_table_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "five.md"
    assert invoke("table", "triqdef.5", "--published-only", "--output", str(path)).output == f"{path}\n"
    assert path.read_text() == invoke("table", "triqdef.5", "--published-only").output
    invoke("table", "triqdef.5", "--published-only", "--output", str(tmp_path))
    assert (tmp_path / "triqdef.5.md").read_text() == path.read_text()


def test_contradictions() -> None:
    assert invoke("table", "contradictions").output.startswith("# Contradictions\n")
    assert len(list(csv.reader(io.StringIO(invoke("table", "contradictions", "--format", "csv").output)))) == 68


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["triqdf.5", "--published-only"], "unknown table 'triqdf.5'. Did you mean: triqdef.5?"),
        (["contradiction"], "unknown table 'contradiction'. Did you mean: contradictions?"),
        (["triqdef.5"], "expected one of --run DIR (repeatable) and --published-only"),
        (["triqdef.5", "--run", "run", "--published-only"], "expected one of --run DIR (repeatable) and"),
        (["contradictions", "--published-only"], "contradictions need neither --run nor --published-only"),
        (["triqdef.5", "--run", "nowhere"], "error: nowhere: expected a run folder with manifest.json and"),
        (["triqdef.5", "--run", "nowhere"], "or cells.parquet, found no such folder"),
        (["triqdef.5", "--run", "run", "--format", "html"], "'html' is not one of 'csv', 'md', 'tex'"),
        (["triqdef.5", "--run", "run", "--stand-in", "resnet56"], "expected PUBLISHED=MEASURED, found 'resnet56'"),
        (["triqdef.5", "--run", "run", "--stand-in", "resnt56=resnet20"], "'resnt56'. Did you mean: resnet56?"),
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_2_and_one_message(run: Path, arguments: list[str], message: str) -> None:
    done = ended("table", *arguments, folder=run.parent)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
