"""The leaderboard on the terminal, read from leaderboard.csv."""

from __future__ import annotations

import sys
from pathlib import Path

from qpatchbench.runs.layout import LEADERBOARD

MOST_ROWS = 40
PIPED_WIDTH = 120


def print_leaderboard(output: Path) -> None:
    """Print the first rows and where everything is; rates in percent."""
    from rich.console import Console
    from rich.table import Table

    from qpatchbench.report.leaderboard.published import read_board
    from qpatchbench.report.page.tables import percent, with_interval

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    path = output / LEADERBOARD
    rows = read_board(path)
    table = Table(box=None, pad_edge=False)
    for name in ("attack", "source", "target"):
        table.add_column(name, no_wrap=True)
    for name in ("asr % [95 %]", "control", "clean"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("checks")
    for row in rows[:MOST_ROWS]:
        table.add_row(
            f"{row.attack} {row.moved_size}",
            row.source_text if row.source_model or row.lineage else "",
            row.target,
            with_interval(row, "asr"),
            percent(row, "asr_control"),
            percent(row, "clean_accuracy"),
            row.checks if row.status == "ok" else row.status,
        )
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"... and {len(rows) - MOST_ROWS} more rows")
    console.print(f"leaderboard: {path}\nplots: {output / 'plots'}\nreport: {output / 'report.html'}", highlight=False)
