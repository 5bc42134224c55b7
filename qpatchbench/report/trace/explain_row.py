"""A row of a leaderboard in words: number -> counts -> patch -> network and checkpoint -> lines of the suite -> checks.

Counts, intervals and images come from the outcomes of single images, so what is told here does not rely on the numbers
that are printed in the leaderboard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qpatchbench.evaluation.checks.explanations import EXPLANATIONS
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.leaderboard.counterparts import Comparisons
from qpatchbench.report.leaderboard.keys import row_key
from qpatchbench.report.leaderboard.rates import CONTROL
from qpatchbench.report.leaderboard.row import ELSEWHERE, Row
from qpatchbench.report.trace.choose import ChosenRow
from qpatchbench.report.trace.suite_lines import suite_lines
from qpatchbench.runs.integrity import is_inside
from qpatchbench.runs.patch_file import read_patch
from qpatchbench.runs.records import CellRecord, Check
from qpatchbench.runs.run import Run
from qpatchbench.statistics.intervals import Array, wilson

FEW = 4  # images of a kind that are named


def traced(run: Run, chosen: ChosenRow) -> str:
    """Several paragraphs of plain text."""
    cells = [cell for cell in run.cells if not cell.control and row_key(cell) == chosen.row.key]
    return "\n".join(_lines(run, chosen, sorted(cells, key=lambda cell: cell.seed))) + "\n"


def _lines(run: Run, chosen: ChosenRow, cells: Sequence[CellRecord]) -> Iterator[str]:
    row = chosen.row
    finished = [cell for cell in cells if cell.status == "ok"]
    yield f"Row {chosen.number} of {run.directory / 'leaderboard.csv'}"
    made = "made elsewhere" if row.source == ELSEWHERE else f"crafted on {row.source_text}"
    yield f"  {row.attack} {row.moved_size} {made}, on {row.target}; {row.dataset}"
    for cell in cells:
        if cell.status != "ok":
            yield f"  seed {cell.seed} failed: {cell.error.strip().splitlines()[-1]}"
    if finished:
        yield from _number(run, row, finished)
    for cell in finished:
        yield from _patch(run, cell)
        yield from _network(run.manifest, cell)
    yield from suite_lines(run.manifest, cells)
    if finished:
        yield from _checks(run, row)
        yield from _images(run, finished)


def _number(run: Run, row: Row, cells: Sequence[CellRecord]) -> Iterator[str]:
    outcomes = [run.outcomes(cell) for cell in cells]
    fooled = sum(int(each.fooled.sum()) for each in outcomes)
    eligible = sum(int(each.eligible.sum()) for each in outcomes)
    yield from ("", "Number")
    asr, *bounds = (row.text(name) for name in ("asr", "asr_low", "asr_high"))
    yield f"  asr {asr or 'undefined'} %, 95 % interval [{', '.join(bounds)}]"
    rule = "right without the patch" + (", label other than the goal" if cells[0].goal_kind == "targeted" else "")
    rate = f" = {100 * fooled / eligible:.4f} %" if eligible else ""
    yield f"  counted again: {fooled} fooled of {eligible} eligible images ({rule}){rate}"
    low, high = (100 * bound for bound in wilson(fooled, eligible))
    single = len(cells) == 1 and len(cells[0].counts) == 1
    agrees = [f"{bound:.4f}" for bound in (low, high)] == bounds
    kind = "the row's is a bootstrap over seeds, goals and images"
    if single:
        kind = "as in the row" if agrees else "the row says otherwise"
    yield f"  Wilson's interval of these counts: [{low:.4f}, {high:.4f}]; {kind}"
    for cell, each in zip(cells, outcomes, strict=True):
        right = f"{int(each.correct.sum())} of {len(each.labels)} images right without a patch"
        yield f"  seed {cell.seed}, cell {cell.cell}: {right}"
        for count in each.counts():
            hit = f", {count.n_hit} as class {count.goal}" if count.goal != "untargeted" else ""
            alone = f"; {count.n_left_alone} more left alone, since the source gets them wrong" * bool(
                count.n_left_alone
            )
            yield f"    goal {count.goal}: {count.n_fooled} of {count.n_eligible} fooled{hit}{alone}"


def _patch(run: Run, cell: CellRecord) -> Iterator[str]:
    yield from ("", f"Patch of seed {cell.seed}: {cell.patch}")
    entry = _entry(run.manifest, "patches", "patch", cell.patch)
    if entry is None:
        yield "  the manifest says nothing of it: an earlier version wrote this folder; run the suite again"
        return
    labels = {str(each.get("network")): str(each.get("label")) for each in run.manifest.get("networks", ())}
    fields = dict(entry["attack"])
    yield f"  {fields.pop('class')}, version {fields.pop('version')}, seed {entry['seed']}"
    yield f"  {_fields(fields)}"
    for source in entry["sources"]:
        yield f"  crafted on {labels.get(source, source)}"
    yield from (f"  {name}: {entry[name]}" for name in ("origin", "licence") if name in entry)
    yield f"  {entry['file']}, SHA-256 {entry['sha256']}"
    path = run.directory / entry["file"]
    if not is_inside(run.directory, entry["file"]) or not path.is_file():
        yield "  the file is not there"
    elif len(losses := read_patch(path).history):
        last = ", ".join(f"{loss:.3g}" for loss in losses[-3:])
        yield f"  mean loss {losses[0]:.3g} at the first of {len(losses)} recorded steps, {last} at the last"


def _network(manifest: Mapping[str, Any], cell: CellRecord) -> Iterator[str]:
    yield from ("", f"Network of seed {cell.seed}: {cell.network}")
    entry = _entry(manifest, "networks", "network", cell.network)
    if entry is None:
        yield "  the manifest does not name it"
        return
    yield f"  {entry['label']}"
    if "n_clean_correct" in entry:
        share = 100 * entry["n_clean_correct"] / entry["n_images"]
        yield f"  {entry['n_clean_correct']} of {entry['n_images']} clean images right: {share:.1f} %"
    if isinstance(entry.get("quantizer"), dict):
        yield f"  quantizer {_fields({name: value for name, value in entry['quantizer'].items() if name != 'class'})}"
    for key in [entry.get("checkpoint"), *entry.get("partners", ())]:
        made = _entry(manifest, "checkpoints", "checkpoint", str(key))
        if made is None:
            continue
        yield f"  checkpoint {made['key']}: {made['label']}, SHA-256 {made['sha256']}"
        if made["settings"]:
            start = f", from checkpoint {made['initial']}" if made["initial"] else ""
            yield f"    {_fields(made['settings'])}{start}"
        else:
            yield f"    weights {made['model'].get('weights')}, not trained here"


def _checks(run: Run, row: Row) -> Iterator[str]:
    board = Leaderboard(run)
    checks = board.checks[[each.key for each in board.rows].index(row.key)]
    yield from ("", "Checks")
    for check in checks:
        if check.verdict in ("fail", "warn"):
            yield from _raised(check)
    passed = [check.id for check in checks if check.verdict == "pass"]
    if passed:
        yield f"  passed: {' '.join(passed)}"
    reasons: dict[str, list[str]] = defaultdict(list)
    for check in checks:
        if check.verdict == "not-run":
            reasons[check.message].append(check.id)
    for why, names in reasons.items():
        yield f"  not run: {' '.join(names)}{f' ({why})' if why else ''}"


def _raised(check: Check) -> Iterator[str]:
    known = EXPLANATIONS[check.id]
    yield f"  {check.verdict} {check.id}: {known.title}"
    if check.message:
        yield f"    found: {check.message}"
    yield f"    raised if {known.raised_if}"
    yield f"    means: {known.means}"
    yield f"    do: {known.do}"


def _images(run: Run, cells: Sequence[CellRecord]) -> Iterator[str]:
    """A few images that the patch of the first seed decides, under its first goal."""
    cell = cells[0]
    ids, outcomes = run.stored(cell).ids, run.outcomes(cell)
    fooled, eligible = outcomes.fooled[0], outcomes.eligible[0]
    control = Comparisons(run).control(cell, CONTROL)
    yield from ("", f"Images that decide, seed {cell.seed}, goal {outcomes.goals[0]}")

    def told(words: str, mask: Array) -> str:
        places = np.flatnonzero(mask)
        named = [
            f"{ids[place]} (label {outcomes.labels[place]}, answer {outcomes.patched[0, place]})"
            for place in places[:FEW]
        ]
        return f"  {words}: {len(places)}{': ' if named else ''}{', '.join(named)}"

    if control is None:
        yield told("fooled", fooled)
    else:
        by_chance = run.outcomes(control).wrong[0]
        yield told("fooled by this patch, not by the random one", fooled & ~by_chance)
        yield told("fooled by both", fooled & by_chance)
        yield told("fooled by the random one only", eligible & ~fooled & by_chance)
    yield told("not fooled", eligible & ~fooled)


def _entry(manifest: Mapping[str, Any], section: str, name: str, key: str) -> Mapping[str, Any] | None:
    return next((entry for entry in manifest.get(section, ()) if entry.get(name) == key), None)


def _fields(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None and value != [])
