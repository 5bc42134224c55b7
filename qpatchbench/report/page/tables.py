"""The leaderboard as CSV (every column), Markdown and LaTeX (the columns people read)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qpatchbench.report.leaderboard.row import Row, columns_of
from qpatchbench.report.page.definitions import definitions_text
from qpatchbench.report.page.escaping import markdown_text, one_line
from qpatchbench.report.page.grid import Grid

READ_COLUMNS = (
    *("model", "defense", "quantization", "attack", "size", "source", "target"),
    *("asr [95 %]", "asr_targeted", "asr_common", "asr_control", "clean", "rank", "checks"),
)
RIGHT = {"target", "asr [95 %]", "asr_targeted", "asr_common", "asr_control", "clean", "rank"}
# Names of networks and lists of checks may be long: in LaTeX they go on below.
_WIDE = {"model": 1.3, "defense": 1.75, "quantization": 1.35, "attack": 1.3, "source": 1.95, "checks": 1.5}  # cm


class _Scaled(NamedTuple):
    """A column of numbers, divided and rounded for reading."""

    name: str
    by: float = 1.0
    digits: int = 1


# Heading -> what it shows.
RUNTIME_COLUMNS = {
    "MMAC": _Scaled("multiplications", 1e6),
    "kB": _Scaled("model_bytes", 1e3, 0),
    "ms": _Scaled("latency_ms", digits=2),
    "agreement": _Scaled("agreement", digits=2),
    "asr_runtime": _Scaled("asr_runtime"),
}
_DEFINED = ("asr", "asr_targeted", "asr_common", "asr_control", "intervals", "rank")


def whole_grid(rows: Sequence[Row]) -> Grid:
    """Every column, four decimals, empty where there is no value."""
    columns = columns_of(rows)
    return Grid(columns, [[row.text(name) for name in columns] for row in rows])


def readable_grid(rows: Sequence[Row]) -> Grid:
    """READ_COLUMNS, one decimal; then what a runtime was measured to cost and to change, where one answered."""
    shown = _measured(rows)
    columns = (*READ_COLUMNS[:-1], *shown, READ_COLUMNS[-1])
    return Grid(columns, [_readable(row, shown) for row in rows], RIGHT | set(shown))


def markdown(rows: Sequence[Row], heading: str, stamps: Sequence[str]) -> str:
    """A heading, what stamps the run, the definitions and the table."""
    lines = [f"# {markdown_text(heading)}", ""]
    lines += [line for stamp in stamps for line in (f"**{markdown_text(stamp)}**", "")]
    lines += [f"- {markdown_text(text)}" for text in definitions_text(_defined(rows))]
    return "\n".join([*lines, "", readable_grid(rows).markdown()]) + "\n"


def latex(rows: Sequence[Row], heading: str, stamps: Sequence[str]) -> str:
    r"""A booktabs longtable for \input, which breaks over pages; definitions are comments, stamps lines above."""
    lines = [f"% {one_line(heading)}; needs \\usepackage{{booktabs,longtable}} and 19 cm between the margins"]
    lines += [f"% {one_line(text)}" for text in definitions_text(_defined(rows))]
    grid = readable_grid(rows)
    widths = (f"p{{{_WIDE[name]}cm}}" if name in _WIDE else "r" if name in grid.right else "l" for name in grid.names)
    table = grid.latex_long("".join(widths), above=stamps)
    breaking = r"\renewcommand{\_}{\textunderscore\allowbreak{}}"  # names of defenses may be long
    return "\n".join([*lines, r"{\tiny\setlength{\tabcolsep}{2pt}" + breaking, table, "}"]) + "\n"


def stamps(manifest: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """What a reader must know before any number: a partial run, the data used, transfer only, failures."""
    found = []
    if bool(manifest.get("partial")) or any(row.partial for row in rows):
        found.append("partial: the evaluation images were cut by --limit")
    if manifest.get("dataset_note"):
        found.append(f"dataset: {manifest['dataset_note']}")
    alone = sum(row.transfer_only for row in rows)
    if alone:
        found.append(f"transfer only: {alone} of {len(rows)} rows have no white-box patch on their target")
    broken = sum(row.status != "ok" for row in rows)
    if broken:
        found.append(f"incomplete: {broken} of {len(rows)} rows have failed cells")
    return found


def percent(row: Row, name: str) -> str:
    """A rate with one decimal; empty where it is undefined."""
    return f"{row.number(name):.1f}" if row.measured(name) else ""


def with_interval(row: Row, name: str) -> str:
    """A rate and its 95 % interval, `29.5 [27.4, 31.7]`."""
    low, high = row.interval(name)
    return f"{row.number(name):.1f} [{low:.1f}, {high:.1f}]" if row.measured(name) else ""


def _readable(row: Row, shown: Sequence[str]) -> list[str]:
    return [
        *(row.model, row.defended, row.quantization, row.attack, row.moved_size, row.source_text, row.target_bits),
        with_interval(row, "asr"),
        *(percent(row, name) for name in ("asr_targeted", "asr_common", "asr_control", "clean_accuracy")),
        row.text("rank"),
        *(_scaled(row, RUNTIME_COLUMNS[column]) for column in shown),
        _verdict(row.status, row.checks),
    ]


def _defined(rows: Sequence[Row]) -> tuple[str, ...]:
    return (*_DEFINED, *(RUNTIME_COLUMNS[column].name for column in _measured(rows)))


def _measured(rows: Sequence[Row]) -> list[str]:
    """The columns of a runtime, where one answered."""
    if not any(row.measured("latency_ms") for row in rows):
        return []
    return [column for column, scaled in RUNTIME_COLUMNS.items() if any(row.measured(scaled.name) for row in rows)]


def _scaled(row: Row, column: _Scaled) -> str:
    return f"{row.number(column.name) / column.by:.{column.digits}f}" if row.measured(column.name) else ""


def _verdict(status: str, checks: str) -> str:
    if status == "ok":
        return checks
    return f"{status}; {checks}" if checks not in ("", "ok") else status
