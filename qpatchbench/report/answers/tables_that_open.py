"""Tables whose rows open: the board with the patches that decide, and the log with counts, patch, source and checks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qpatchbench.report.leaderboard.keys import row_key
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.report.page.tables import percent, with_interval
from qpatchbench.report.standings.rate import ThreatRate
from qpatchbench.report.standings.selection import BoardSelection
from qpatchbench.report.standings.standing import Standing
from qpatchbench.report.standings.standing_texts import heads, mark
from qpatchbench.report.standings.threats import THREATS
from qpatchbench.runs.layout import patch_file
from qpatchbench.runs.records import CellRecord, Check


@dataclass(frozen=True)
class OpenCell:
    """One cell: its text, what it is sorted by, and a smaller text behind it."""

    text: str
    value: str = ""
    small: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class OpenPictures:
    """Pictures that a row opens to: their name, a text, and each as markup with a text for screen readers."""

    name: str
    text: str
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenRow:
    """One row.

    Attributes:
        anchor: what a link to it ends with.
        verdict: fail, warn or pass.
        filters: what it is filtered by, by name: bits, model, defense.
        facts: what it opens to: name, text, and the anchor of a row that the text is about or "".
        pictures: what it opens to below them.
    """

    anchor: str
    verdict: str
    cells: tuple[OpenCell, ...]
    filters: Mapping[str, str]
    facts: tuple[tuple[str, str, str], ...]
    pictures: tuple[OpenPictures, ...] = ()


@dataclass(frozen=True)
class OpenTable:
    """A table: heading and tooltip of every column, and its rows."""

    name: str
    columns: tuple[tuple[str, str, bool], ...]
    rows: tuple[OpenRow, ...]

    @property
    def choices(self) -> dict[str, list[str]]:
        """Values of every filter that has two or more."""
        found = {name: list(dict.fromkeys(row.filters[name] for row in self.rows)) for name in self.rows[0].filters}
        return {name: values for name, values in found.items() if len(values) > 1}


def board_table(found: Sequence[Standing]) -> OpenTable:
    """The standings; a row opens to the patch behind each of its numbers, linked to the log."""
    chosen = BoardSelection()
    threats, ranking = chosen.columns(found), chosen.ranking(found)
    titles = heads(found, threats)
    named = {
        "run": ("folder of the run, or of several whose seeds are pooled", [each.experiment for each in found]),
        "model": ("architecture", [each.model for each in found]),
        "defense": ("with what stands before the network", [each.defended for each in found]),
        "quantizer": ("fp: the float network", [each.quantization for each in found]),
    }
    # The defense always; another name where it tells rows apart.
    named = {name: kept for name, kept in named.items() if name == "defense" or len(set(kept[1])) > 1}
    columns = [(name, meaning, False) for name, (meaning, _) in named.items()]
    columns.append(("bits", "of weights and activations", True))
    columns += [(titles[name], THREATS[name].meaning, True) for name in threats]
    if ranking:
        meaning = f"by {THREATS[ranking].title}; shared where tests do not separate rows at 5 % (Holm)"
        columns.append(("rank", meaning, True))
    columns.append(("checks", "validity checks of the patches shown", False))
    rows = []
    for number, each in enumerate(found, 1):
        rank = each.rates[ranking].rank if ranking in each.rates else 0
        names = [OpenCell(values[number - 1]) for _, values in named.values()]
        cells = [*names, OpenCell(each.bits, each.bits.lstrip("w").partition("a")[0], numeric=True)]
        cells += [_rate_cell(each.rates.get(name)) for name in threats]
        cells += [OpenCell(str(rank or "-"), str(rank or math.inf), numeric=True)] if ranking else []
        verdict = "fail" if each.incomplete else next((verdict for verdict, _, _ in each.verdicts()), "pass")
        filters = {"bits": each.bits, "model": each.model, "defense": each.defended}
        filters |= {"run": each.experiment} if "run" in named else {}
        facts = tuple(_fact(name, each.rates[name]) for name in threats if name in each.rates)
        rows.append(OpenRow(f"board-{number}", verdict, (*cells, OpenCell(mark(each))), filters, facts))
    return OpenTable("board", tuple(columns), tuple(rows))


def log_table(
    rows: Sequence[Row],
    checks: Sequence[Sequence[Check]],
    cells: Sequence[CellRecord],
    pictures: Sequence[tuple[OpenPictures, ...]],
) -> OpenTable:
    """The log; a row opens to its counts, patches, source, every check that did not pass, and images that decide.

    Args:
        rows: in the order of the log.
        checks: of every row.
        cells: behind the rows; none where only their log is at hand.
        pictures: of every row.
    """
    patches: dict[tuple[str | int, ...], list[str]] = defaultdict(list)
    for cell in cells:
        if not cell.control and cell.status == "ok":
            patches[row_key(cell)].append(patch_file(cell.patch))
    columns = (
        ("attack", "and the size of its patch in pixels", False),
        ("source", "network on which the patch was crafted", False),
        ("target", "network that it is measured on", False),
        ("asr [95 %]", "of the images classified correctly, those classified wrongly under the patch", True),
        ("control", "asr of uniform noise at the same places", True),
        ("clean", "% of all images classified correctly without a patch", True),
        ("rank", "by asr, among rows of the same attack, size and bits", True),
        ("checks", "validity checks that failed or warn", False),
    )
    found = []
    for number, (row, own, images) in enumerate(zip(rows, checks, pictures, strict=True), 1):
        shown = (
            OpenCell(f"{row.attack} {row.moved_size}"),
            OpenCell(row.source_text),
            OpenCell(row.target),
            OpenCell(percent(row, "asr"), row.text("asr"), with_interval(row, "asr").partition(" ")[2], numeric=True),
            OpenCell(percent(row, "asr_control"), row.text("asr_control"), numeric=True),
            OpenCell(percent(row, "clean_accuracy"), row.text("clean_accuracy"), numeric=True),
            OpenCell(row.text("rank"), row.text("rank"), numeric=True),
            OpenCell(row.checks if row.status == "ok" else f"{row.status}; {row.checks}".strip("; ")),
        )
        verdict = "fail" if row.failed_checks or row.status != "ok" else "warn" if "warn" in row.checks else "pass"
        filters = {"bits": row.target_bits, "attack": row.attack, "defense": row.defended}
        found.append(OpenRow(f"log-{number}", verdict, shown, filters, _log_facts(row, own, patches[row.key]), images))
    return OpenTable("log", columns, tuple(found))


def _rate_cell(rate: ThreatRate | None) -> OpenCell:
    if rate is None or math.isnan(rate.value):
        return OpenCell("", numeric=True)
    bound = "≥" if rate.at_least else ""
    interval = "" if math.isnan(rate.low) else f"[{rate.low:.1f}, {rate.high:.1f}]"
    return OpenCell(f"{bound}{rate.value:.1f}", f"{rate.value:.4f}", interval, numeric=True)


def _fact(name: str, rate: ThreatRate) -> tuple[str, str, str]:
    counts = f"{rate.successes} of {rate.trials}" if rate.trials else "no counts"
    patch = f" by {rate.attack} {rate.size}" if rate.attack else ""
    source = f" from {rate.source}" if rate.source and rate.source != "none" else ""
    rank = f", rank {rate.rank}" if rate.rank else ""
    checks = f", {rate.checks}" if rate.checks not in ("", "ok") else ""
    return THREATS[name].title, f"{counts}{patch}{source}{rank}{checks}", f"log-{rate.place}" if rate.place else ""


def _log_facts(row: Row, checks: Sequence[Check], patches: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    counts = (
        f"{row.count('n_fooled')} fooled of {row.count('n_eligible')}; noise {row.count('n_control_fooled')}; "
        f"{row.count('n_clean_correct')} right without a patch; seeds {row.count('seeds')}, images of each "
        f"{row.count('n_images')}"
    )
    targeted = f"{percent(row, 'asr_targeted')} % reach the target class; " if row.measured("asr_targeted") else ""
    common = f"{percent(row, 'asr_common')} % on common images" if row.measured("asr_common") else ""
    facts = [
        ("counts", counts, ""),
        ("also", (targeted + common).rstrip("; "), ""),
        ("source", f"{row.source_text}, {row.lineage}", ""),
        ("patch", ", ".join(dict.fromkeys(patches)), ""),
    ]
    facts += [
        (check.id, f"{check.verdict}: {check.message}", "") for check in checks if check.verdict in ("fail", "warn")
    ]
    passed = " ".join(check.id for check in checks if check.verdict == "pass")
    return (*(fact for fact in facts if fact[1]), *([("passed", passed, "")] if passed else []))
