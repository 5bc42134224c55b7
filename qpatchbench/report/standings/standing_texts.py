"""The standings as Markdown, CSV and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from qpatchbench.report.leaderboard.row import FLOAT_MODE
from qpatchbench.report.page.escaping import markdown_text, tex
from qpatchbench.report.page.grid import Grid
from qpatchbench.report.standings.rate import ThreatRate
from qpatchbench.report.standings.selection import BoardSelection
from qpatchbench.report.standings.standing import Standing
from qpatchbench.report.standings.threats import OF_ROWS, THREATS

MARKS = {"fail": "✗", "warn": "!"}
FAILED, UNCHECKED = "✗", "-"
_NAMES = ("experiment", "dataset", "model", "defense", "quantizer", "bits")
_ROWS_OF_A_PAGE = 46
_CSV_KEY = ("experiment", "dataset", "model", "defense", "preprocessor", "quantization", "bits", "size", "seeds")
_CSV_RATE = ("", "_low", "_high", "_successes", "_trials", "_at_least", "_attack", "_size", "_source", "_rank")


def mark(each: Standing, columns: Sequence[str] = OF_ROWS) -> str:
    """The checks as one mark with its reason, `✗ V2 of white box; ! V1 of unseen`; a tick where nothing is wrong."""
    reasons: dict[str, list[str]] = {sign: [] for sign in MARKS.values()} | {
        FAILED: [each.incomplete] if each.incomplete else []
    }
    for verdict, name, where in each.verdicts(columns):
        reasons[MARKS[verdict]].append(f"{name} of {where}")
    checked = any(rate.checks not in ("", "not run") for rate in each.rates.values())
    parts = [f"{sign} {'; '.join(found)}" for sign, found in reasons.items() if found]
    return "; ".join(parts) or ("✓" if checked else "not checked")


def heads(rows: Sequence[Standing], columns: Sequence[str]) -> dict[str, str]:
    """Heading of every threat; with attack and size where all rows have the same."""
    found = {}
    for threat in columns:
        rates = [each.rates[threat] for each in rows if threat in each.rates]
        attacks, sizes = ({getattr(rate, name) for rate in rates} for name in ("attack", "size"))
        patch = [next(iter(names)) for names in (attacks, sizes) if len(names) == 1]
        title = THREATS[threat].title
        if threat in OF_ROWS and len(patch) == 2 and patch[0] != title:
            found[threat] = f"{title}: {' '.join(patch)}"
        elif threat in (*OF_ROWS, "random") and len(sizes) == 1:
            found[threat] = f"{title} {''.join(sizes)}"
        else:
            found[threat] = title
    return found


def stated_rate(rate: ThreatRate | None, digits: int = 1) -> str:
    """`13.7 [10.7, 17.3]`, a lower bound with >=; empty where there is none."""
    if rate is None or math.isnan(rate.value):
        return ""
    bound = ">= " if rate.at_least else ""
    interval = "" if math.isnan(rate.low) else f" [{rate.low:.{digits}f}, {rate.high:.{digits}f}]"
    return f"{bound}{rate.value:.{digits}f}{interval}"


def readable(rows: Sequence[Standing], chosen: BoardSelection) -> Grid:
    """What a reader compares: names that differ, every threat, the rank and the mark."""
    columns, ranking = chosen.columns(rows), chosen.ranking(rows)
    titles = heads(rows, columns)
    names = _naming(rows)
    rank = [f"rank by {THREATS[ranking].title}"] if ranking else []
    alike = {
        threat: len({each.rates[threat].attack for each in rows if threat in each.rates}) < 2 for threat in columns
    }

    def cell(each: Standing, threat: str) -> str:
        rate = each.rates.get(threat)
        text = stated_rate(rate)
        return text if rate is None or alike[threat] or not rate.attack else f"{text} {rate.attack}"

    return Grid(
        (*names, *(titles[name] for name in columns), *rank, "checks"),
        [
            [
                *(_name(each, name) for name in names),
                *(cell(each, threat) for threat in columns),
                *([_rank(each, ranking)] if rank else []),
                mark(each, columns),
            ]
            for each in rows
        ],
        {*titles.values(), *rank, "bits"},
    )


def markdown(rows: Sequence[Standing], chosen: BoardSelection) -> str:
    """The readable table, and what its columns are."""
    lines = [readable(rows, chosen).markdown(), ""]
    lines += [f"- {markdown_text(text)}" for text in notes(rows, chosen)]
    return "\n".join(lines) + "\n"


def notes(rows: Sequence[Standing], chosen: BoardSelection) -> list[str]:
    """What the reader of a table must know: the denominators, the threats shown, the ranks, and what is partial."""
    columns, ranking = chosen.columns(rows), chosen.ranking(rows)
    sizes = " and ".join(dict.fromkeys(each.size for each in rows if each.size))
    found = [
        f"% of the images classified correctly that a patch fools, {sizes}, with 95 % intervals; a threat without "
        "patches of this size shows the nearest."
    ]
    found += [f"{THREATS[name].title}: {THREATS[name].meaning}." for name in columns]
    if ranking:
        pairs = [each.rates[ranking].paired for each in rows if _rank(each, ranking).isdigit()]
        tests = "paired tests" if pairs and all(pairs) else "tests from the intervals, unpaired,"
        found.append(
            f"rank: {tests} of every pair at the same bits, after Holm's correction; shared by rows that do not differ "
            f"at 5 % from the first of their tie. {UNCHECKED}: nothing measured, {FAILED}: a failed check, no rank."
        )
    if any(each.partial for each in rows):
        found.append("PARTIAL: --limit cut the evaluation images of a run.")
    return found


def whole(rows: Sequence[Standing]) -> Grid:
    """Every number, four decimals: for programs."""
    names = [name for name in THREATS if any(name in each.rates for each in rows)]
    columns = (*_CSV_KEY, *(f"{name}{part}" for name in names for part in _CSV_RATE), "partial", "checks")
    return Grid(columns, [_whole(each, names) for each in rows])


def _whole(each: Standing, names: Sequence[str]) -> list[object]:
    cells: list[object] = [getattr(each, name) for name in _CSV_KEY]
    for name in names:
        rate = each.rates.get(name)
        if rate is None:
            cells += [None] * len(_CSV_RATE)
            continue
        numbers = ("" if math.isnan(number) else f"{number:.4f}" for number in (rate.value, rate.low, rate.high))
        counts = (rate.successes or None, rate.trials or None)
        cells += [*numbers, *counts, rate.at_least, rate.attack, rate.size, rate.source, rate.rank or None]
    return [*cells, each.partial, mark(each)]


def latex(rows: Sequence[Standing], chosen: BoardSelection) -> str:
    r"""Compact booktabs tables for \input, each short enough for a page: rates and half-widths of their intervals."""
    columns, ranking = chosen.columns(rows), chosen.ranking(rows)
    names = [name for name in _naming(rows) if name != "quantizer"]
    titles = heads(rows, columns)
    legend = [f"{titles[name]}: {THREATS[name].meaning}" for name in columns]
    header = [
        *map(tex, names),
        *(_slanted(THREATS[name].title) for name in columns),
        *(["rank"] if ranking else []),
        "",
    ]
    lines = ["% Standings of qpatchbench; needs \\usepackage{booktabs}", *(f"% {text}" for text in legend)]
    for first in range(0, len(rows), _ROWS_OF_A_PAGE):
        lines += [
            r"{\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\begin{{tabular}}{{{'l' * len(names)}{'r' * (len(columns) + bool(ranking))}l}}",
            r"\toprule",
            " & ".join(header) + r" \\",
        ]
        for _, group in groupby(rows[first : first + _ROWS_OF_A_PAGE], key=lambda each: (each.model, each.bits)):
            lines.append(r"\midrule")
            lines += [_compact(each, names, columns, ranking) for each in group]
        lines += [r"\bottomrule", r"\end{tabular}\par}", ""]
    return "\n".join(lines)


def latex_long(rows: Sequence[Standing], chosen: BoardSelection) -> str:
    """A longtable with one line per row and threat, which breaks over pages: intervals, counts and the patch."""
    columns = chosen.columns(rows)
    names = _naming(rows)
    head = " & ".join([*map(tex, names), "threat", "rate [95 \\%]", "of", "patch", "rank"]) + r" \\"
    lines = [
        "% Standings of qpatchbench; needs \\usepackage{booktabs,longtable}",
        r"{\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{{'l' * len(names)}lrrlr}}",
        r"\toprule",
        head,
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
    ]
    for each in rows:
        for threat in columns:
            rate = each.rates.get(threat)
            if rate is not None:
                patch = f"{rate.attack} {rate.size}".strip()
                cells = (THREATS[threat].title, stated_rate(rate), str(rate.trials or ""), patch, _rank(each, threat))
                lines.append(" & ".join(map(tex, (*(_name(each, name) for name in names), *cells))) + r" \\")
    return "\n".join([*lines, r"\end{longtable}}", ""])


def _compact(each: Standing, names: Sequence[str], columns: Sequence[str], ranking: str) -> str:
    cells = [tex(_name(each, name)) for name in names]
    cells += [_half_width(each.rates.get(threat)) for threat in columns]
    cells += [tex(_rank(each, ranking))] if ranking else []
    worst = next(iter(each.verdicts(columns)), None)
    return " & ".join([*cells, "" if worst is None else tex(f"{MARKS[worst.verdict]} {worst.check}")]) + r" \\"


def _half_width(rate: ThreatRate | None) -> str:
    if rate is None or math.isnan(rate.value):
        return ""
    bound = r"$\geq$" if rate.at_least else ""
    half = "" if math.isnan(rate.low) else rf"\,{{\tiny$\pm${max(rate.high - rate.value, rate.value - rate.low):.1f}}}"
    return f"{bound}{rate.value:.1f}{half}"


def _slanted(title: str) -> str:
    """A heading in two lines where it has two words."""
    first, _, rest = title.partition(" ")
    return rf"\shortstack[r]{{{tex(first)} \\ {tex(rest)}}}" if rest else tex(first)


def _naming(rows: Sequence[Standing]) -> list[str]:
    """Names that tell rows apart, and always the defense and the bits; 32 bits say that a network is float."""
    found = {name: {_name(each, name) for each in rows} for name in _NAMES}
    found["quantizer"].discard(FLOAT_MODE)
    return [name for name in _NAMES if name in ("defense", "bits") or len(found[name]) > 1]


def _name(each: Standing, name: str) -> str:
    return {"defense": each.defended, "quantizer": each.quantization}.get(name) or str(getattr(each, name))


def _rank(each: Standing, threat: str) -> str:
    rate = each.rates.get(threat)
    if rate is None:
        return UNCHECKED
    return FAILED if rate.failed else str(rate.rank or UNCHECKED)


def definitions(columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Title and meaning of every column."""
    yield from ((THREATS[name].title, THREATS[name].meaning) for name in columns)
