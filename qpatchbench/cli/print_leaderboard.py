"""The leaderboard on the terminal, read from leaderboard.csv."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from qpatchbench.runs.layout import LEADERBOARD

MOST_ROWS = 40
PIPED_WIDTH = 120


def print_leaderboard(output: Path) -> None:
    """Print the first rows and where everything is; rates in percent."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    path = output / LEADERBOARD
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = Table(box=None, pad_edge=False)
    for name in ("attack", "source", "target"):
        table.add_column(name, no_wrap=True)
    for name in ("asr % [95 %]", "control", "clean"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("checks")
    for row in rows[:MOST_ROWS]:
        table.add_row(
            _patch(row),
            _source(row),
            f"{row['model']} {row['defense']} {row['quantization']}@{row['target_bits']}"
            + _behind(row["preprocessor"]),
            f"{_percent(row['asr'])} [{_percent(row['asr_low'])}, {_percent(row['asr_high'])}]" if row["asr"] else "",
            _percent(row["asr_control"]),
            _percent(row["clean_accuracy"]),
            row["checks"] if row["status"] == "ok" else row["status"],
        )
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"... and {len(rows) - MOST_ROWS} more rows")
    console.print(f"leaderboard: {path}\nplots: {output / 'plots'}\nreport: {output / 'report.html'}", highlight=False)


def _patch(row: dict[str, str]) -> str:
    """The attack, its size and how the patch was moved."""
    return " ".join(filter(None, (row["attack"], f"{row['patch_height']}x{row['patch_width']}", row["transformation"])))


def _source(row: dict[str, str]) -> str:
    """The source network, with what it does not share with the target."""
    foreign = [row[f"source_{name}"] for name in ("model", "defense") if row[f"source_{name}"] != row[name]]
    if not row["source_bits"]:
        return ""
    own = f"{row['source_quantization']}@{row['source_bits']}"
    return " ".join([*foreign, own]) + _behind(row["source_preprocessor"])


def _behind(preprocessor: str) -> str:
    return "" if preprocessor == "none" else f" + {preprocessor}"


def _percent(text: str) -> str:
    return f"{float(text):.1f}" if text else ""
