"""Panels of the report page: transfer matrices, ASR by bits, and defenses as a sorted dot plot."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from qpatchbench.report.answers.svg import CHARACTER, PagePanel, document, label, line, marker, path
from qpatchbench.report.leaderboard.class_names import shortened
from qpatchbench.report.leaderboard.keys import bits_order
from qpatchbench.report.page.grid import Grid
from qpatchbench.report.standings.rate import ThreatRate
from qpatchbench.report.standings.standing import Standing
from qpatchbench.report.standings.threats import THREATS
from qpatchbench.report.standings.transfer_matrix import TransferMatrix, is_significant

# Threat -> its marker; the page gives each a colour and a dash.
SERIES = {"white_box": "circle", "from_32": "square", "unseen": "diamond", "random": "triangle"}
_LONGEST = 26
_CELL = (46.0, 26.0)


def legend(found: Sequence[Standing]) -> str:
    """The series that panels of these rows have, each with its marker, as a list."""
    items = (
        f'<li><svg viewBox="0 0 26 12" width="26" aria-hidden="true">{path([(0, 6), (26, 6)], f"line {threat}")}'
        f"{marker(13, 6, shape, f'dot {threat}')}</svg> {THREATS[threat].title}</li>"
        for threat, shape in SERIES.items()
        if any(threat in each.rates for each in found)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def matrix_panel(matrix: TransferMatrix) -> PagePanel:
    """ASR minus control from each source (rows) on each target (columns).

    A star: above 0 at 95 %. A dagger: no control was measured with these goals, and it is ASR itself.
    """
    width, height = _CELL
    left = CHARACTER * min(_LONGEST, max(len(name) for name in matrix.sources)) + 10
    top = 18.0 if max(len(name) for name in matrix.targets) <= 6 else 34.0
    parts = []
    for column, target in enumerate(matrix.targets):
        mode, _, bits = target.rpartition("@")
        x = left + (column + 0.5) * width
        parts.append(label(x, top - 6, bits, anchor="middle", kind="axis"))
        if mode:
            parts.append(label(x, top - 19, shortened(mode, 7), anchor="middle", kind="axis"))
    records = []
    for number, source in enumerate(matrix.sources):
        y = top + number * height
        parts.append(label(left - 6, y + height / 2 + 4, shortened(source, _LONGEST), anchor="end", kind="axis"))
        for column, target in enumerate(matrix.targets):
            row = matrix.cells.get((source, target))
            if row is None:
                continue
            measured = row.measured("asr_net")
            net = row.number("asr_net") if measured else row.number("asr")
            low, high = row.interval("asr_net" if measured else "asr")
            star = "*" if is_significant(row) else "" if measured else "†"
            x = left + column * width
            share = min(1.0, max(0.0, net / 100))
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 2:.0f}" height="{height - 2:.0f}" class="heat" '
                f'fill-opacity="{0.06 + 0.94 * share:.2f}"/>'
            )
            kind = "strong" if star == "*" else ""
            parts.append(label(x + width / 2 - 1, y + height / 2 + 4, f"{net:.1f}{star}", anchor="middle", kind=kind))
            records.append(
                (source, target, f"{row.number('asr'):.4f}", f"{net:.4f}", f"{low:.4f}", f"{high:.4f}", star)
            )
    grid = Grid(("source", "target", "asr", "asr_net", "low", "high", "significant"), records)
    size = (left + len(matrix.targets) * width, top + len(matrix.sources) * height)
    return PagePanel(matrix.title, document(size, f"{matrix.title}, ASR minus control", parts), grid.csv())


def bits_panels(found: Sequence[Standing]) -> Iterator[PagePanel]:
    """ASR against bits, one panel per model and defense, one line per threat of SERIES, with intervals."""
    groups: dict[tuple[str, ...], list[Standing]] = defaultdict(list)
    for each in found:
        groups[each.experiment, each.dataset, each.model, each.defended].append(each)
    for key, rows in groups.items():
        bits = sorted({each.bits for each in rows}, key=bits_order)
        if len(bits) > 1:
            run = f" in {key[0]}" if len({each.experiment for each in found}) > 1 else ""
            yield _bits_panel(f"{key[2]} {key[3]}{run}", rows, bits)


def _bits_panel(title: str, rows: Sequence[Standing], bits: Sequence[str]) -> PagePanel:
    left, right, top, bottom = 30.0, 210.0, 10.0, 130.0
    step = (right - left - 24) / max(1, len(bits) - 1)
    places = {name: left + 12 + number * step for number, name in enumerate(bits)}

    def at(percent: float) -> float:
        return bottom - (bottom - top) * min(100.0, max(0.0, percent)) / 100

    parts = [line(left, at(tick), right, at(tick), "grid") for tick in (0, 50, 100)]
    parts += [label(left - 4, at(tick) + 4, tick, anchor="end", kind="axis") for tick in (0, 50, 100)]
    parts += [label(x, bottom + 14, name, anchor="middle", kind="axis") for name, x in places.items()]
    records = []
    for threat, shape in SERIES.items():
        best: dict[str, ThreatRate] = {}
        for each in rows:  # of several quantizers at the same bits, the one that gives most away
            rate = each.rates.get(threat)
            if rate is not None and (each.bits not in best or rate.value > best[each.bits].value):
                best[each.bits] = rate
        drawn = [(places[name], best[name]) for name in bits if name in best]
        parts.append(path([(x, at(rate.value)) for x, rate in drawn], f"line {threat}"))
        for x, rate in drawn:
            if not math.isnan(rate.low):
                parts.append(line(x, at(rate.low), x, at(rate.high), f"bar {threat}"))
            parts.append(
                marker(x, at(rate.value), shape, f"dot {threat}", f"{THREATS[threat].title} {rate.value:.1f} %")
            )
        records += [(threat, name, *_numbers(best[name])) for name in bits if name in best]
    grid = Grid(("threat", "bits", "rate", "low", "high"), records)
    return PagePanel(title, document((214, 150), f"{title}: ASR in % against bits", parts), grid.csv())


def dot_plots(found: Sequence[Standing]) -> Iterator[PagePanel]:
    """One panel per model and bits with two defenses or more: sorted by the strongest threat that all have."""
    groups: dict[tuple[str, ...], list[Standing]] = defaultdict(list)
    for each in found:
        groups[each.dataset, each.model, each.bits].append(each)
    for (_, model, bits), rows in groups.items():
        threats = [threat for threat in SERIES if sum(threat in each.rates for each in rows) > 1]
        if len(rows) > 1 and threats:
            yield _dot_plot(f"{model} at {bits} bits", rows, threats)


def _dot_plot(title: str, rows: Sequence[Standing], threats: Sequence[str]) -> PagePanel:
    several = len({each.defended for each in rows}) < len(rows)
    names = [f"{each.defended} {each.quantization}" if several else each.defended for each in rows]
    if len({each.experiment for each in rows}) > 1:
        names = [f"{name}, {each.experiment}" for name, each in zip(names, rows, strict=True)]
    key = threats[0]
    order = sorted(range(len(rows)), key=lambda place: _value(rows[place].rates.get(key)))
    left = CHARACTER * min(_LONGEST, max(map(len, names))) + 10
    right, top, height = left + 260, 8.0, 20.0
    bottom = top + height * len(rows)

    def at(percent: float) -> float:
        return left + (right - left) * min(100.0, max(0.0, percent)) / 100

    parts = [line(at(tick), top, at(tick), bottom, "grid") for tick in (0, 25, 50, 75, 100)]
    parts += [label(at(tick), bottom + 14, tick, anchor="middle", kind="axis") for tick in (0, 25, 50, 75, 100)]
    records = []
    for number, place in enumerate(order):
        y = top + (number + 0.5) * height
        parts.append(label(left - 6, y + 4, shortened(names[place], _LONGEST), anchor="end", kind="axis"))
        for threat in reversed(threats):
            rate = rows[place].rates.get(threat)
            if rate is None or math.isnan(rate.value):
                continue
            if not math.isnan(rate.low):
                parts.append(line(at(rate.low), y, at(rate.high), y, f"bar {threat}"))
            told = f"{names[place]}, {THREATS[threat].title}: {rate.value:.1f} % [{rate.low:.1f}, {rate.high:.1f}]"
            parts.append(marker(at(rate.value), y, SERIES[threat], f"dot {threat}", told))
            records.append((names[place], threat, *_numbers(rate)))
    grid = Grid(("defense", "threat", "rate", "low", "high"), records)
    return PagePanel(title, document((right + 12, bottom + 20), f"{title}: rates in %", parts), grid.csv())


def _value(rate: ThreatRate | None) -> float:
    return math.inf if rate is None or math.isnan(rate.value) else rate.value


def _numbers(rate: ThreatRate) -> tuple[str, str, str]:
    low, value, high = (f"{number:.4f}" for number in (rate.low, rate.value, rate.high))
    return value, low, high
