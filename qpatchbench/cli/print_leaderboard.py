"""The end of a run on the terminal: how each network stands, the transfer matrix, and what failed checks mean."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpatchbench.runs.layout import LEADERBOARD, PLOTS, REPORT_PAGE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from qpatchbench.report.leaderboard.row import Row
    from qpatchbench.report.standings.rate import ThreatRate
    from qpatchbench.report.standings.standing import Standing

MOST_STANDINGS = 40
MOST_MATRICES = 3
PIPED_WIDTH = 120


def print_leaderboard(output: Path) -> None:
    """Print what a run answers, within the columns of the terminal, and where everything is; rates in percent."""
    from rich.console import Console

    from qpatchbench.report.standings.experiments import read_experiments
    from qpatchbench.report.standings.standing import standings

    # No colour: a number is as good in a log. Nothing is cut: what is too long goes on below.
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, markup=False, emoji=False)
    experiments = read_experiments([output])
    rows = [members[0].row for members in experiments[0].rows]
    found = standings(experiments)
    if any(each.partial for each in found):
        console.print("PARTIAL: the evaluation images were cut by --limit; these are no results of the suite")
    _print_standings(console, found)
    _print_matrices(console, rows, {each.size for each in found})
    for line in meanings_of_failures(rows):
        console.print(line, soft_wrap=False)
    here = (("leaderboard", LEADERBOARD), ("plots", PLOTS), ("report", REPORT_PAGE))
    for name, file in here:
        console.print(f"{name}: {output / file}", soft_wrap=True)


def meanings_of_failures(rows: Sequence[Row]) -> list[str]:
    """One line per failed check: in how many rows, what it is, and what a failure means."""
    from qpatchbench.evaluation.checks.explanations import EXPLANATIONS

    failed = Counter(name for row in rows for name in row.failed_checks.split()[1:])
    return [
        f"{name} failed in {count} of {len(rows)} rows, which have no rank: {EXPLANATIONS[name].means}"
        for name, count in sorted(failed.items(), key=lambda item: int(item[0][1:]))
    ]


def _print_standings(console: Console, found: Sequence[Standing]) -> None:
    from qpatchbench.report.leaderboard.row import FLOAT_MODE
    from qpatchbench.report.standings.standing_texts import MARKS
    from qpatchbench.report.standings.threats import THREATS

    columns = [name for name in THREATS if any(name in each.rates for each in found)]
    models = len({each.model for each in found}) > 1
    several = len({each.quantization for each in found} - {FLOAT_MODE}) > 1
    table = _table("network" if models else "defense", "bits")
    for name in columns:
        table.add_column(THREATS[name].title, justify="right", overflow="fold")
    table.add_column("checks", overflow="fold")
    for each in found[:MOST_STANDINGS]:
        checks = [f"{MARKS[verdict]} {check}" for verdict, check, _ in each.verdicts()]
        table.add_row(
            f"{each.model} {each.defended}" if models else each.defended,
            f"{each.quantization}@{each.bits}" if several else each.bits,
            *(_with_half(each.rates.get(name)) for name in columns),
            ", ".join(["✗ " + each.incomplete] if each.incomplete else checks) or "✓",
        )
    console.print(table)
    if len(found) > MOST_STANDINGS:
        console.print(f"... and {len(found) - MOST_STANDINGS} more: qpatchbench leaderboard")
    if found:
        console.print(
            f"% of the images classified correctly that a patch of {found[0].size} fools, ± half of its 95 % interval"
        )


def _with_half(rate: ThreatRate | None) -> str:
    if rate is None or math.isnan(rate.value):
        return ""
    half = "" if math.isnan(rate.low) else f" ±{(rate.high - rate.low) / 2:.1f}"
    return f"{'≥' if rate.at_least else ''}{rate.value:.1f}{half}"


def _print_matrices(console: Console, rows: Sequence[Row], sizes: set[str]) -> None:
    """Those of the board's size that have most sources."""
    from qpatchbench.report.standings.transfer_matrix import is_significant, transfer_matrices

    known = [each for each in transfer_matrices(rows) if each.size in sizes and len(each.sources) > 1]
    for matrix in sorted(known, key=lambda each: -len(each.sources))[:MOST_MATRICES]:
        console.print(f"\n{matrix.title}: ASR, from source (down) to target bits (across); * more than noise")
        table = _table("source")
        for target in matrix.targets:
            table.add_column(target, justify="right", overflow="fold")
        for source in matrix.sources:
            cells = [matrix.cells.get((source, target)) for target in matrix.targets]
            shown = (
                "" if row is None else f"{row.number('asr'):.1f}{'*' if is_significant(row) else ' '}" for row in cells
            )
            table.add_row(source, *shown)
        console.print(table)
    if len(known) > MOST_MATRICES:
        console.print(f"... and {len(known) - MOST_MATRICES} more matrices: {REPORT_PAGE}")
    console.print()


def _table(*names: str) -> Table:
    from rich.table import Table

    options: dict[str, Any] = {"box": None, "pad_edge": False, "header_style": ""}
    table = Table(**options)
    for name in names:
        table.add_column(name, overflow="fold")
    return table
