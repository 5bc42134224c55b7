"""The leaderboard on the terminal, read from leaderboard.csv."""

from __future__ import annotations

import csv
from pathlib import Path

MOST_ROWS = 40


def print_leaderboard(output: Path) -> None:
    """Print the first rows and where everything is; rates in percent."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=False)
    path = output / "leaderboard.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = Table(box=None, pad_edge=False)
    for name in ("model", "defense", "quantization", "attack", "source", "target"):
        table.add_column(name)
    for name in ("asr %", "95 %", "control %", "clean %"):
        table.add_column(name, justify="right")
    table.add_column("checks")
    for row in rows[:MOST_ROWS]:
        table.add_row(
            row["model"],
            row["defense"],
            row["quantization"],
            f"{row['attack']} {row['patch_height']}x{row['patch_width']}",
            f"{row['source_model']}@{row['source_bits']}" if row["source_model"] else "",
            row["target_bits"],
            _percent(row["asr"]),
            f"{_percent(row['asr_low'])}..{_percent(row['asr_high'])}" if row["asr"] else "",
            _percent(row["asr_control"]),
            _percent(row["clean_accuracy"]),
            row["checks"],
        )
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"... and {len(rows) - MOST_ROWS} more rows")
    console.print(f"leaderboard: {path}\nplots: {output / 'plots'}\nreport: {output / 'report.html'}", highlight=False)


def _percent(text: str) -> str:
    return f"{float(text):.1f}" if text else ""
