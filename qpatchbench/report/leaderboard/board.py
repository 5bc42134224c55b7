"""The leaderboard: one row per thing compared, seeds aggregated; every rate with its counts, in percent."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from qpatchbench.report.leaderboard.counterparts import Comparisons, is_white_box
from qpatchbench.report.leaderboard.keys import ROW_KEY, row_key, row_order
from qpatchbench.report.leaderboard.ranks import Contestant, ranks
from qpatchbench.report.leaderboard.rates import Measured, measure, ratio
from qpatchbench.runs.records import QUERY_BUDGETS, CellRecord, Check
from qpatchbench.runs.run import Run

_INTERVALS = ("low", "high")
RATES = (
    *("asr", "asr_low", "asr_high", "asr_targeted", "asr_common", "asr_control", "asr_net"),
    *("clean_accuracy", "robust_accuracy"),
)
QUERY_RATES = tuple(f"asr_{budget}_queries" for budget in QUERY_BUDGETS)
MORE_RATES = (
    *(f"{name}_{end}" for name in ("asr_common", "asr_control", "asr_net") for end in _INTERVALS),
    *("asr_grey", "asr_worst"),
    *QUERY_RATES,
    "certified_accuracy",
)
COUNTS = ("n_images", "n_eligible")
MORE_COUNTS = (
    *("n_clean_correct", "n_fooled", "n_hit", "n_robust"),
    *("n_common", "n_common_fooled", "n_control_fooled", "n_grey_fooled", "n_worst_fooled", "n_certified"),
)
COLUMNS = (
    *ROW_KEY[:8],
    "area_percent",
    *ROW_KEY[8:14],
    "seeds",
    *COUNTS,
    *RATES,
    *("lineage", "checks", "partial"),
    *ROW_KEY[14:],
    *MORE_RATES,
    *("transfer_ratio", "queries_median"),
    *MORE_COUNTS,
    *("rank", "transfer_only", "status"),
)
PERCENTAGES = (*RATES, *MORE_RATES)
# White-box cells of the same attack on the same target decide whether a row is "transfer only".
_TARGET = (*ROW_KEY[:8], "target_bits", "transformation")
_VERDICTS = {"not-run": 0, "pass": 1, "warn": 2, "fail": 3}


class Leaderboard:
    """Rows and what explains them.

    Attributes:
        frame: COLUMNS; percentages in 0..100, NaN where undefined; sorted by key.
        checks: the merged checks of every row, by position.
    """

    def __init__(self, run: Run) -> None:
        comparisons = Comparisons(run)
        groups = _groups(run.cells)
        reached = {_target(cell) for cell in run.cells if is_white_box(cell) and cell.status == "ok"}
        rows, worst = [], _Worst()
        self.checks: list[tuple[Check, ...]] = []
        contests: dict[tuple[object, ...], list[Contestant]] = defaultdict(list)
        for place, cells in enumerate(groups):
            finished = [cell for cell in cells if cell.status == "ok"]
            measured = measure(finished, comparisons) if finished else _nothing()
            checks = merged_checks(
                [*(check for cell in finished for check in cell.checks), *_compared(cells, measured)]
            )
            row = _row(cells, finished, measured, checks)
            row["transfer_only"] = bool(cells[0].source_model) and _target(cells[0]) not in reached
            worst.add(_target(cells[0]), measured)
            if row["status"] == "ok" and not _failed(checks) and not math.isnan(row["asr"]):
                contests[_contest(cells[0])].append(Contestant(place, row["asr"], measured.replicates))
            rows.append(row)
            self.checks.append(checks)
        given = {place: rank for contest in contests.values() for place, rank in ranks(contest).items()}
        for place, (row, cells) in enumerate(zip(rows, groups, strict=True)):
            row["rank"] = given.get(place, pd.NA)
            row |= worst.of(_target(cells[0]))
        self.frame = _frame(rows)


class _Worst:
    """asr_worst: per image, success of any source's patch on the same target; the mean of minima of robustness."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], dict[int, tuple[np.ndarray[Any, Any], int]]] = defaultdict(dict)

    def add(self, target: tuple[object, ...], measured: Measured) -> None:
        for seed, fooled in measured.fooled.items():
            earlier = self._found[target].get(seed)
            merged = fooled if earlier is None else fooled | earlier[0]
            self._found[target][seed] = (merged, int(measured.eligible[seed].sum()))

    def of(self, target: tuple[object, ...]) -> dict[str, Any]:
        found = self._found[target].values()
        fooled = sum(int(merged.sum()) for merged, _ in found)
        eligible = sum(count for _, count in found)
        return {"asr_worst": 100 * ratio(fooled, eligible), "n_worst_fooled": fooled if eligible else pd.NA}


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


def _row(
    cells: Sequence[CellRecord], finished: Sequence[CellRecord], measured: Measured, checks: Sequence[Check]
) -> dict[str, Any]:
    first = cells[0]
    image, patch = first.image_height * first.image_width, first.patch_height * first.patch_width
    failed = len(cells) - len(finished)
    return {
        **dict(zip(ROW_KEY, row_key(first), strict=True)),
        "area_percent": 100 * patch / image,
        "seeds": len({cell.seed for cell in finished}),
        **measured.counts,
        **{name: 100 * value for name, value in measured.rates.items() if name != "transfer_ratio"},
        "transfer_ratio": measured.rates.get("transfer_ratio", math.nan),
        **_certified(finished),
        **_queries(finished),
        "lineage": "/".join(sorted({cell.lineage for cell in cells})),
        "checks": checks_text(checks) if finished else "",
        "partial": any(cell.partial for cell in cells),
        "status": "ok" if not failed else "error" if not finished else f"{failed} of {len(cells)} seeds failed",
    }


def _certified(cells: Sequence[CellRecord]) -> dict[str, float]:
    """Images with a certificate against patches of the row's size; nothing where any seed has none to give."""
    counts = [cell.n_certified for cell in cells if cell.n_certified is not None]
    if not cells or len(counts) < len(cells):
        return {}
    images = sum(cell.n_images for cell in cells)
    return {"n_certified": sum(counts), "certified_accuracy": 100 * ratio(sum(counts), images)}


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


def _compared(cells: Sequence[CellRecord], measured: Measured) -> Iterator[Check]:
    # A listed control is no optimised patch, and a pixel attack has no random patch to be compared with.
    if cells[0].source_model:
        yield measured.control
    yield from (check for check in (measured.masking, measured.inversion) if check is not None)


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


def _failed(checks: Sequence[Check]) -> bool:
    return any(check.verdict == "fail" for check in checks)


def _nothing() -> Measured:
    return Measured(counts={}, rates={})


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS))
    floats = [*PERCENTAGES, "area_percent", "transfer_ratio", "queries_median"]
    integers = [*COUNTS, *MORE_COUNTS, "rank"]
    return frame.astype({**dict.fromkeys(floats, "float64"), **dict.fromkeys(integers, "Int64")})
