"""A comparison of two runs as Markdown for people and as CSV, one line per quantity and row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from qpatchbench.report.compare.runs import LEVEL, RunComparison, RunDifference
from qpatchbench.report.leaderboard.keys import ROW_KEY
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.report.page.grid import Grid

_NUMBERS = ("a", "b", "difference", "difference_low", "difference_high", "p", "p_holm", "only_a", "only_b")
CSV_COLUMNS = ("status", "quantity", *ROW_KEY, *_NUMBERS, "verdict", "pairing", "seeds", "checks_a", "checks_b")
_NETWORK = ("model", "defense", "preprocessor", "quantization", "target_bits")


def as_csv(found: RunComparison) -> str:
    """One line per comparison, then the rows of one run only; percent, differences B - A in points."""
    records = [_record(each) for each in found.compared]
    for status, rows in (
        ("not measured", found.unmeasured),
        ("only in A", found.only[0]),
        ("only in B", found.only[1]),
    ):
        records += [{"status": status, **{name: row.text(name) for name in ROW_KEY}} for row in rows]
    return Grid.of(CSV_COLUMNS, records).csv()


def _record(each: RunDifference) -> dict[str, str]:
    clean = each.quantity == "clean_accuracy"
    names = ("dataset", *_NETWORK) if clean else ROW_KEY
    return {
        **{name: each.row.text(name) for name in names},
        "status": "compared",
        "quantity": each.quantity,
        **dict(zip(_NUMBERS, _numbers(each, 4), strict=True)),
        "verdict": each.higher,
        "pairing": f"unpaired: {each.unpaired}" if each.unpaired else "paired",
        "seeds": each.seeds,
        "checks_a": "" if clean else each.checks[0],
        "checks_b": "" if clean else each.checks[1],
    }


def as_markdown(found: RunComparison) -> str:
    """What differs in the manifests, rows of one run only, clean accuracy, ASR."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: RunComparison) -> Iterator[str]:
    a, b = found.names
    heading = f"# Comparison of two defenses in {found.within}" if found.within else "# Comparison of two runs"
    yield from (heading, "", f"- A: {a}", f"- B: {b}")
    if not found.within:
        yield from ("", "## What differs in the manifests", "")
        yield Grid(("field", "A", "B"), found.fields).markdown() if found.fields else "Nothing."
    yield from _one_sided("A", found.only[0])
    yield from _one_sided("B", found.only[1])
    if found.unmeasured:
        yield from ("", f"## Rows that a run failed to measure: {len(found.unmeasured)}", "")
        yield from (f"- {row.label} ({row.dataset})" for row in found.unmeasured)
    yield from ("", "## Differences", "", _summary(found.compared), "")
    for quantity, heading in (("clean_accuracy", "Clean accuracy"), ("asr", "ASR")):
        rows = [each for each in found.compared if each.quantity == quantity]
        if rows:
            yield from (f"### {heading}, percent", "", _table(rows, clean=quantity == "clean_accuracy"), "")


def _one_sided(side: str, rows: Sequence[Row]) -> Iterator[str]:
    yield from ("", f"## Rows only in {side}: {len(rows)}", *([""] if rows else []))
    yield from (f"- {row.label} ({row.dataset})" for row in rows)


def _summary(compared: Sequence[RunDifference]) -> str:
    tests = [each for each in compared if not math.isnan(each.change.p_value)]
    clear = [each for each in tests if each.higher]
    reasons = dict.fromkeys(each.unpaired for each in compared if each.unpaired)
    seeds = dict.fromkeys(each.seeds for each in compared if each.seeds)
    parts = [
        f"{len(tests)} comparisons, {len(clear)} of which differ at {100 * LEVEL:g} % after Holm's correction for all "
        f"of them; p < {LEVEL:g} without it: {sum(each.change.p_value < LEVEL for each in tests)}.",
        "Differences are B - A in points with 95 % intervals, each on its own;",
        f"{sum(not each.unpaired for each in compared)} are paired on the same images.",
    ]
    if reasons:
        parts.append(f"Unpaired, from the rows' own intervals as if the runs were independent: {'; '.join(reasons)}.")
    if seeds:
        parts.append(
            f"Seeds differ ({', '.join(seeds)}): an interval over images says nothing of what another seed would give."
        )
    return " ".join(parts)


def _table(rows: Sequence[RunDifference], *, clean: bool) -> str:
    names = ("model", "defense", "quantization", "target")
    patch = () if clean else ("attack", "size", "source")
    heads = (*names, *patch, "A", "B", "B - A [95 %]", "p", "p (Holm)", "only A", "only B", "differs")
    right = frozenset({"target", "A", "B", "B - A [95 %]", "p", "p (Holm)", "only A", "only B"})
    return Grid(heads, [_cells(each, clean=clean) for each in rows], right).markdown()


def _cells(each: RunDifference, *, clean: bool) -> list[str]:
    row = each.row
    a, b, value, low, high, p, adjusted, only_a, only_b = _numbers(each, 1)
    marks = [each.higher, "unpaired" * bool(each.unpaired)]
    if not clean and any("fail" in checks for checks in each.checks):
        marks.append("failed checks")
    return [
        *(row.model, row.defended, row.quantization, row.target_bits),
        *(() if clean else (row.attack, row.moved_size, row.source_text)),
        *(a, b, f"{value} [{low}, {high}]", p, adjusted, only_a, only_b),
        ", ".join(filter(None, marks)),
    ]


def _numbers(each: RunDifference, digits: int) -> list[str]:
    change = each.change
    points = [100 * number for number in (change.value, change.low, change.high)]
    return [
        *(f"{number:.{digits}f}" for number in (each.a, each.b)),
        *(_signed(number, digits) for number in points),
        *(f"{number:.3g}" for number in (change.p_value, each.adjusted)),
        *("" if count is None else str(count) for count in (change.only_first, change.only_second)),
    ]


def _signed(number: float, digits: int) -> str:
    """With its sign; nothing that rounds to zero has one."""
    text = f"{number:+.{digits}f}"
    return text[1:] if not text.strip("+-0.") else text
