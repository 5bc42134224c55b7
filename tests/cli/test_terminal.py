"""What a terminal of 80 columns, a log and a screen without colours get of a run."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from qpatchbench.cli import print_leaderboard as shown
from qpatchbench.cli.display import Pace, Plain, Rich
from qpatchbench.report.leaderboard.published import read_folder
from qpatchbench.report.standings.experiments import read_experiments
from qpatchbench.report.standings.standing import standings
from qpatchbench.report.standings.transfer_matrix import is_significant, transfer_matrices
from tests.cli.conftest import TinyRuns
from tests.cli.test_commands import ROOT
from tests.report.made_up_runs import row, write_run

TRANSFER = ROOT / "results/cifar_transfer_small"
TITLE = "craft lavan_per_image 10x10 on resnet20 triqdef_without_penalties qat@4, seed 0"


@dataclass(frozen=True)
class _Job:
    """All that a display asks of a job."""

    key: str
    title: str = TITLE


class _Pace(Pace):
    """Of three jobs, one of them done."""

    def __init__(self) -> None:
        self.total, self.done, self.cached, self.started = 3, 1, 1, 0.0
        self.costs, self.left, self.spent, self.fractions = {"a": 1.0, "b": 1.0}, 2.0, 0.0, {}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "PIPED_WIDTH", 80)


@pytest.mark.usefixtures("narrow")
def test_eighty_columns_hold_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    shown.print_leaderboard(TRANSFER)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(len(line) for line in lines if str(TRANSFER) not in line) <= 80
    assert "…" not in text
    found = standings(read_experiments([TRANSFER]))
    assert len(found) > 10
    for each in found:
        for rate in each.rates.values():
            assert f"{rate.value:.1f}" in text
    assert "\x1b" not in text


@pytest.mark.usefixtures("narrow")
def test_the_matrix_has_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    shown.print_leaderboard(TRANSFER)
    text = capsys.readouterr().out
    matrix = max(transfer_matrices(read_folder(TRANSFER).rows), key=lambda each: len(each.sources))
    assert matrix.title in text
    for cell in matrix.cells.values():
        assert f"{cell.number('asr'):.1f}{'*' if is_significant(cell) else ''}" in text


def test_names_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are no colour, and colons no picture."""
    name = "mine [red]:smile:[/red]"
    rows = [row(target_bits="4", defense=name), row(target_bits="4", defense=name, source_bits="32", asr="20")]
    shown.print_leaderboard(write_run(tmp_path / "run", rows))
    text = capsys.readouterr().out
    assert name in text
    assert f"gap 6x6 on resnet20 {name}: ASR" in text


def test_failed_checks_are_said_with_what_they_mean() -> None:
    rows = read_folder(ROOT / "results/cifar_defenses_small").rows
    lines = shown.meanings_of_failures(rows)
    failed = {name for row in rows for name in row.failed_checks.split()[1:]}
    assert failed
    assert {line.split()[0] for line in lines} == failed
    assert all(
        line.endswith(tuple("abcdefghijklmnopqrstuvwxyz")) and "rows, which have no rank: " in line for line in lines
    )


def test_a_partial_run_says_so_first(tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "part"
    suite = str(tiny_runs.root / "tiny.yaml")
    done = tiny_runs.invoke("run", suite, "--output", str(output), "--limit", "8", "--display", "plain")
    assert done.return_value == 0
    at_the_end = done.output[done.output.rindex("jobs") :] if "jobs" in done.output else done.output
    assert "PARTIAL: the evaluation images were cut by --limit" in at_the_end
    assert "lavan 4x4 on resnet20 qat: ASR, from source (down) to target bits (across)" in at_the_end


def test_a_log_hears_of_a_long_job_every_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("qpatchbench.cli.display.time.monotonic", lambda: now[0])
    display, job = Plain(_Pace()), cast("Any", _Job("a"))
    display.started(job)
    for step in range(1, 31):  # half an hour's work told every ten seconds for five minutes
        now[0] += 10
        display.progressed(job, step / 180, {"asr": 12.5})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(f"[1/3] {TITLE}: 3 %, asr 12.5, about ")
    display.finished(job, 300.0)
    assert capsys.readouterr().out.startswith(f"[2/3] {TITLE}: 300.0 s, asr 12.5")


@pytest.mark.parametrize("colour", [True, False])
def test_a_live_line_is_never_cut(colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system="standard", _environ=None)
    with Rich(_Pace(), console) as display:
        job = cast("Any", _Job("a"))
        display.started(job)
        display.progressed(job, 0.5, {"loss": 0.125, "asr": 33.25})
        display.failed(job, "no patch")
        display.started(job)
        display.progressed(job, 0.5, {"loss": 0.125, "asr": 33.25})
        display.bar.refresh()
        plain = Console(width=80, no_color=True)
        with plain.capture() as held:
            plain.print(display.bar.get_renderable())
    text = " ".join(held.get().split())
    for word in (*TITLE.split(), "50 %", "loss 0.125", "asr 33.2", "2/3"):
        assert word in text
    assert ("\x1b[31m" in screen.getvalue()) == colour
