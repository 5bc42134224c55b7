"""`qpatchbench claims`."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from qpatchbench.papers.claims.hypotheses import claims, claims_of
from tests.cli.running import ended
from tests.cli.test_commands import ROOT, invoke

PUBLISHED = ROOT / "results" / "cifar_transfer_small"


def test_claims_on_a_published_run() -> None:
    begun = time.process_time()
    text = invoke("claims", "--run", str(PUBLISHED)).output
    assert time.process_time() - begun < 10
    assert text.startswith(f"# Claims\n\nOf {len(claims())} claims, as published: ")
    assert all(f"\n## {claim.id}\n" in text for claim in claims())
    assert "- because: architecture: alexnet instead of resnet20" in text
    assert "- under the protocol of these runs: does not hold" in text


def test_claims_of_one_paper_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    result = invoke("claims", "--run", str(PUBLISHED), "--paper", "qadtr", "--format", "csv", "--output", str(path))
    assert result.output == f"{path}\n"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row["claim"] for row in rows] == [claim.id for claim in claims_of("qadtr")]


def test_a_run_that_is_named_twice_counts_once() -> None:
    once = invoke("claims", "--run", str(PUBLISHED), "--format", "csv").output
    assert invoke("claims", "--run", str(PUBLISHED), "--run", str(PUBLISHED), "--format", "csv").output == once


def test_the_help_explains_verdicts() -> None:
    text = " ".join(invoke("claims", "--help").output.split())
    for verdict in (
        *("holds, the whole interval", "does not hold, it lies", "cannot tell, it", "not measured, with"),
        "Verdicts under the protocol of these runs: holds, does not hold or too close",
    ):
        assert verdict in text


@pytest.fixture
def latex(tmp_path: Path) -> Path:
    path = tmp_path / "claims.tex"
    invoke("claims", "--run", str(PUBLISHED), "--format", "tex", "--output", str(path))
    return path


def test_latex_is_closed(latex: Path) -> None:
    text = latex.read_text()
    assert text.count(r"\begin{") == text.count(r"\end{") > 0


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX engine: found no pdflatex")
def test_latex_compiles(latex: Path) -> None:
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", latex.name],
        cwd=latex.parent, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--run'"),
        (["--run", "nowhere"], "error: nowhere: expected a run folder with manifest.json and"),
        (["--run", "nowhere", "--paper", "triqdf"], "error: unknown paper 'triqdf'. Did you mean: triqdef?"),
        (["--run", "nowhere", "--format", "html"], "'html' is not one of 'csv', 'md', 'tex'"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = ended("claims", *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
