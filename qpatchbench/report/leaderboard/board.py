"""The leaderboard: one row per thing compared, seeds aggregated; every rate with its counts, in percent."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from qpatchbench.report.leaderboard.counterparts import Comparisons, is_white_box
from qpatchbench.report.leaderboard.keys import ROW_KEY, row_key, row_order
from qpatchbench.report.leaderboard.ranks import Contestant, ranks
from qpatchbench.report.leaderboard.rates import RowRates, measure, ratio
from qpatchbench.report.leaderboard.row import EXTERNAL, INTEGERS, NUMBERS, SIZES, Row, columns_of, row_of
from qpatchbench.runs.records import QUERY_BUDGETS, CellRecord, Check
from qpatchbench.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

# White-box cells of the same attack on the same target decide whether a row is "transfer only".
_TARGET = (*ROW_KEY[:8], "target_bits", "transformation")
_VERDICTS = {"not-run": 0, "pass": 1, "warn": 2, "fail": 3}


class Leaderboard:
    """Rows and what explains them.

    Attributes:
        rows: sorted by key.
        checks: the merged checks of every row, by position.
    """

    def __init__(self, run: Run) -> None:
        comparisons = Comparisons(run)
        groups = _groups(run.cells)
        reached = {_target(cell) for cell in run.cells if is_white_box(cell) and cell.status == "ok"}
        found, worst = [], _Worst()
        self.checks: list[tuple[Check, ...]] = []
        contests: dict[tuple[object, ...], list[Contestant]] = defaultdict(list)
        for place, cells in enumerate(groups):
            finished = [cell for cell in cells if cell.status == "ok"]
            rates = measure(finished, comparisons) if finished else RowRates(counts={}, rates={})
            checks = merged_checks([*(check for cell in finished for check in cell.checks), *_compared(cells, rates)])
            row = _row(cells, finished, rates, checks)
            row = replace(row, transfer_only=bool(row.source_model) and _target(cells[0]) not in reached)
            worst.add(_target(cells[0]), rates)
            if row.status == "ok" and not row.failed_checks and row.measured("asr"):
                contests[_contest(cells[0])].append(Contestant(place, row.number("asr"), rates.replicates))
            found.append(row)
            self.checks.append(checks)
        given = {place: rank for contest in contests.values() for place, rank in ranks(contest).items()}

        def ranked(place: int) -> dict[str, float]:
            return {"rank": given[place]} if place in given else {}

        self.rows = tuple(
            replace(row, numbers={**row.numbers, **ranked(place), **worst.of(_target(cells[0]))})
            for place, (row, cells) in enumerate(zip(found, groups, strict=True))
        )

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as a table, for notebooks; what is undefined is NaN or NA."""
        import pandas as pd  # a report needs none

        columns = columns_of(self.rows)
        records = [
            [row.numbers.get(name) if name in NUMBERS else getattr(row, name) for name in columns] for row in self.rows
        ]
        types = {name: "Int64" if name in INTEGERS else "float64" for name in columns if name in NUMBERS}
        return pd.DataFrame(records, columns=list(columns)).astype(types)


class _Worst:
    """asr_worst: per image, success of any source's patch on the same target; the mean of minima of robustness."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], dict[int, tuple[np.ndarray[Any, Any], int]]] = defaultdict(dict)

    def add(self, target: tuple[object, ...], rates: RowRates) -> None:
        for seed, fooled in rates.fooled.items():
            earlier = self._found[target].get(seed)
            merged = fooled if earlier is None else fooled | earlier[0]
            self._found[target][seed] = (merged, int(rates.eligible[seed].sum()))

    def of(self, target: tuple[object, ...]) -> dict[str, float]:
        found = self._found[target].values()
        fooled = sum(int(merged.sum()) for merged, _ in found)
        eligible = sum(count for _, count in found)
        return {"asr_worst": 100 * ratio(fooled, eligible), "n_worst_fooled": fooled} if eligible else {}


def merged_checks(checks: Sequence[Check]) -> tuple[Check, ...]:
    """One check per id: the worst verdict, and every distinct message of that verdict."""
    by_id: dict[str, list[Check]] = defaultdict(list)
    for check in checks:
        by_id[check.id].append(check)
    merged = []
    for name in sorted(by_id, key=lambda name: int(name[1:])):
        verdict = max((check.verdict for check in by_id[name]), key=_VERDICTS.__getitem__)
        messages = dict.fromkeys(check.message for check in by_id[name] if check.verdict == verdict and check.message)
        merged.append(Check(id=name, verdict=verdict, message="; ".join(messages)))
    return tuple(merged)


def checks_text(checks: Sequence[Check]) -> str:
    """`ok`, `not run`, or for example `fail V2 V6; warn V3`.

    >>> checks_text([Check(id="V3", verdict="warn"), Check(id="V2", verdict="fail")])
    'fail V2; warn V3'
    """
    parts = []
    for verdict in ("fail", "warn"):
        names = [check.id for check in checks if check.verdict == verdict]
        if names:
            parts.append(f"{verdict} {' '.join(names)}")
    if not parts:
        return "ok" if any(check.verdict == "pass" for check in checks) else "not run"
    return "; ".join(parts)


def _groups(cells: Sequence[CellRecord]) -> list[list[CellRecord]]:
    groups: dict[tuple[str | int, ...], list[CellRecord]] = defaultdict(list)
    for cell in cells:
        if not cell.control:
            groups[row_key(cell)].append(cell)
    return [sorted(groups[key], key=lambda cell: (cell.seed, cell.cell)) for key in sorted(groups, key=row_order)]


def _row(cells: Sequence[CellRecord], finished: Sequence[CellRecord], rates: RowRates, checks: Sequence[Check]) -> Row:
    first = cells[0]
    image, patch = first.image_height * first.image_width, first.patch_height * first.patch_width
    failed = len(cells) - len(finished)
    return replace(
        row_of(first),
        lineage="/".join(sorted({cell.lineage for cell in cells})),
        checks=checks_text(checks) if finished else "",
        partial=any(cell.partial for cell in cells),
        status="ok" if not failed else "error" if not finished else f"{failed} of {len(cells)} seeds failed",
        numbers={
            "area_percent": 100 * patch / image,
            "seeds": len({cell.seed for cell in finished}),
            **rates.counts,
            **{name: 100 * value for name, value in rates.rates.items() if name in NUMBERS},
            **({"transfer_ratio": rates.rates["transfer_ratio"]} if finished else {}),
            **_certified(finished),
            **_queries(finished),
            **_size(finished),
            **_runtime(finished),
        },
    )


def _certified(cells: Sequence[CellRecord]) -> dict[str, float]:
    """Images with a certificate against patches of the row's size; nothing where any seed has none to give."""
    counts = [cell.n_certified for cell in cells if cell.n_certified is not None]
    if not cells or len(counts) < len(cells):
        return {}
    images = sum(cell.n_images for cell in cells)
    return {"n_certified": sum(counts), "certified_accuracy": 100 * ratio(sum(counts), images)}


def _size(cells: Sequence[CellRecord]) -> dict[str, float]:
    """Of the first seed: all have one architecture; bytes and time may differ a little."""
    found = {name: getattr(cells[0], name) if cells else None for name in SIZES}
    return {name: value for name, value in found.items() if value is not None}


def _runtime(cells: Sequence[CellRecord]) -> dict[str, float]:
    """Agreement of a runtime that answered a second time, and ASR there; nothing where none did in any seed."""
    figures = [check.figures for cell in cells for check in cell.checks if check.id == "V16" and check.figures]
    if not figures or len(figures) < len(cells):
        return {}
    changed, total, fooled, eligible = (
        sum(each.get(name, 0.0) for each in figures) for name in ("changed", "of", "fooled_runtime", "eligible_runtime")
    )
    return {
        "agreement": 100 * (1 - ratio(int(changed), int(total))),
        "asr_runtime": 100 * ratio(int(fooled), int(eligible)),
    }


def _queries(cells: Sequence[CellRecord]) -> dict[str, float]:
    """Success within budgets of queries; nothing where queries are no cost."""
    if not cells or not all(cell.queries for cell in cells):
        return {}
    eligible = sum(cell.totals()["n_eligible"] for cell in cells)
    fooled = {budget: 0 for budget in QUERY_BUDGETS}
    for cell in cells:
        for count in cell.queries:
            fooled[count.budget] += count.n_fooled
    medians = [cell.queries_median for cell in cells if cell.queries_median is not None]
    rates = {f"asr_{budget}_queries": 100 * ratio(count, eligible) for budget, count in fooled.items()}
    return {**rates, "queries_median": sum(medians) / len(medians) if medians else math.nan}


def _compared(cells: Sequence[CellRecord], rates: RowRates) -> Iterator[Check]:
    # A listed control is no optimised patch, and a pixel attack has no random patch to be compared with.
    if cells[0].source_model or cells[0].lineage == EXTERNAL:
        yield rates.control
    yield from (check for check in (rates.masking, rates.inversion) if check is not None)


def _contest(cell: CellRecord) -> tuple[object, ...]:
    """Rows ranked together: the same attack, size and bits, on themselves, their own or the same foreign source."""
    source_model = "own" if cell.source_model == cell.model else cell.source_model
    source_defense = "own" if cell.source_defense == cell.defense else cell.source_defense
    size = (cell.patch_height, cell.patch_width)
    bits = (cell.source_bits, cell.target_bits)
    source = (source_model, source_defense, is_white_box(cell))
    return (cell.dataset, cell.attack, *size, *bits, *source, cell.seen, cell.transformation)


def _target(cell: CellRecord) -> tuple[object, ...]:
    return tuple(getattr(cell, name) for name in _TARGET)
