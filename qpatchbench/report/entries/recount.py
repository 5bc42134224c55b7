"""Every number of a run folder again from its outcomes: counts, records and leaderboard; and the hashes of its files.

Needs neither weights nor images. What is found wrong is one sentence each, with file, row, what was expected (counted
from the outcomes, or named by the manifest) and what was found.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow.lib import ArrowException

from qpatchbench.errors import ArtifactError
from qpatchbench.report.entries.rewritten import rewritten
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.leaderboard.published import listing
from qpatchbench.report.leaderboard.row import Row, columns_of
from qpatchbench.report.page.build import FORMATS
from qpatchbench.runs.integrity import file_findings, patch_findings
from qpatchbench.runs.layout import CELLS, KEY_DIGITS, LEADERBOARD, MANIFEST, OUTCOMES
from qpatchbench.runs.manifest import read_manifest
from qpatchbench.runs.outcomes import StoredOutcomes
from qpatchbench.runs.parquet_tables import opened, read_rows
from qpatchbench.runs.reading import read_table_text
from qpatchbench.runs.records import CellRecord, QueryCounts
from qpatchbench.runs.run import OUTCOME_COLUMNS, Run


def number_findings(folder: Path, *, reports: bool = True, same_code: bool = True) -> tuple[str, ...]:
    """Everything of a run folder that is not what it should be, one sentence each; none: all numbers hold.

    Args:
        folder: of a run, or an entry.
        reports: whether all tables, pictures and pages are written again too, and not the leaderboard alone.
        same_code: whether the revision that wrote the folder is at work here.

    Returns:
        Sentences; those that are a `Unchecked` are about what cannot be computed again.

    Raises:
        ArtifactError: no run folder.
    """
    manifest = manifest_of(folder)
    findings = list(file_findings(folder, manifest))
    try:
        run = Run(folder)
        findings += patch_findings(folder, manifest, run.cells)
        findings += recounted(run)
        board = Leaderboard(run)
        told = list(_board(folder / LEADERBOARD, board.rows))
        known = {LEADERBOARD} if told else set()
        findings += [*told, *rewritten(run, board, FORMATS if reports else (), known, same_code=same_code)]
    except (ArtifactError, ArrowException) as error:
        findings.append(str(error))
    return tuple(dict.fromkeys(findings))


def manifest_of(folder: Path) -> dict[str, Any]:
    """What the run says of itself.

    Raises:
        ArtifactError: no run folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: expected a run folder or an entry with manifest.json, found {listing(folder)}")
    return read_manifest(path)


def recounted(run: Run) -> tuple[str, ...]:
    """Count everything again and compare; one sentence per number that is not what it should be.

    The run's cells are those counted anew afterwards, and its leaderboard is that of them.
    """
    findings: list[str] = []
    counted = []
    totals = read_rows(run.directory / CELLS)
    findings += _columns(run)
    for number, (cell, row) in enumerate(zip(run.cells, totals, strict=True)):
        if cell.status != "ok":
            counted.append(cell)
            continue
        where = f"{CELLS}, row {number} (cell {cell.cell})"
        try:
            again = _counted(cell, run.stored(cell))
        except ArtifactError as error:
            findings.append(str(error))
            counted.append(cell.model_copy(update={"status": "error"}))
            continue
        findings += [f"{where}: {text}" for text in _differences(cell, row, again)]
        counted.append(again)
    findings += _networks(run.manifest, counted)
    findings += _listed(run.manifest, run.cells)
    findings += _unfinished(run)
    run.cells = tuple(counted)
    return tuple(findings)


def _columns(run: Run) -> Iterator[str]:
    """Columns of the tables that no run writes, or writes once only."""
    known = {CELLS: tuple(run.cells[0].row()) if run.cells else (), OUTCOMES: OUTCOME_COLUMNS}
    for name, columns in known.items():
        found = opened(run.directory / name).schema_arrow.names
        for column in sorted(set(found)):
            if found.count(column) > (column in columns):
                many = f"{found.count(column)} of them" if found.count(column) > 1 else "one"
                yield f"{name}: expected {'one' if column in columns else 'no'} column {column}, found {many}"


def _unfinished(run: Run) -> Iterator[str]:
    """Cells that are marked as failed and yet have outcomes, or that left an error behind and are not."""
    failed = {str(job.get("key"))[:KEY_DIGITS] for job in run.manifest.get("jobs", ()) if "error" in job}
    finished = {cell.cell for cell in run.cells if cell.status == "ok"}
    for key in sorted(run.measured_cells - finished):
        yield f"{OUTCOMES}: expected outcomes of finished cells only, found some of cell {key}"
    for cell in run.cells:
        if (cell.status != "ok") != (cell.cell in failed):
            told = "an error" if cell.cell in failed else "no error"
            yield f"{CELLS}, cell {cell.cell}: status: expected that of its job, which has {told}, found {cell.status}"
    complete = not any("error" in job for job in run.manifest.get("jobs", ()))
    if run.manifest.get("complete") != complete:
        yield f"{MANIFEST}, complete: expected {complete}, as its jobs say, found {run.manifest.get('complete')!r}"


def _counted(cell: CellRecord, stored: StoredOutcomes) -> CellRecord:
    """The record with its counts taken from the outcomes."""
    outcomes = stored.outcomes
    found: dict[str, Any] = {
        "n_images": len(outcomes.labels),
        "n_clean_correct": int(outcomes.correct.sum()),
        "counts": outcomes.counts(),
    }
    if cell.queries and stored.queries is not None:
        spent = stored.queries[outcomes.fooled]
        found["queries_median"] = float(np.median(spent)) if len(spent) else None
        found["queries"] = tuple(
            QueryCounts(budget=count.budget, n_fooled=int((spent <= count.budget).sum())) for count in cell.queries
        )
    return cell.model_copy(update=found)


def _differences(cell: CellRecord, row: Mapping[str, Any], again: CellRecord) -> Iterator[str]:
    for name in ("n_images", "n_clean_correct", "queries_median"):
        if getattr(cell, name) != getattr(again, name):
            yield _told(name, getattr(again, name), getattr(cell, name))
    for name, total in again.totals().items():
        if row.get(name) != total:
            yield _told(name, total, row.get(name))
    for kind in ("counts", "queries"):
        for ours, theirs in zip(getattr(again, kind), getattr(cell, kind), strict=True):
            key, *names = type(ours).model_fields
            for name in names:
                if getattr(ours, name) != getattr(theirs, name):
                    text = _told(name, getattr(ours, name), getattr(theirs, name))
                    yield f"{key} {getattr(ours, key)}: {text}"


def _told(name: str, expected: object, found: object) -> str:
    return f"{name}: expected {expected}, counted from outcomes.parquet, found {found}"


def _networks(manifest: Mapping[str, Any], cells: list[CellRecord]) -> Iterator[str]:
    """Clean counts of the manifest's networks against those of their cells."""
    by_network = {cell.network: cell for cell in cells if cell.status == "ok"}
    for entry in manifest.get("networks", ()):
        cell = by_network.get(str(entry.get("network")))
        for name in ("n_images", "n_clean_correct") if cell else ():
            if name in entry and entry[name] != getattr(cell, name):
                text = _told(name, getattr(cell, name), entry[name])
                yield f"manifest.json, network {entry['network']} ({entry.get('label')}): {text}"


def _listed(manifest: Mapping[str, Any], cells: tuple[CellRecord, ...]) -> Iterator[str]:
    """Cells that the run computed and the table lacks, and the other way round."""
    listed = [str(job.get("key", ""))[:16] for job in manifest.get("jobs", ()) if job.get("kind") == "evaluate"]
    known = [cell.cell for cell in cells]
    for key in sorted(set(listed) - set(known)):
        yield f"{CELLS}: expected the cell {key}, which manifest.json lists, found none"
    for key in sorted({key for key in known if key not in listed or known.count(key) > 1}):
        found = f"{known.count(key)} rows" if known.count(key) > 1 else "a row that manifest.json does not list"
        yield f"{CELLS}: expected one row for cell {key}, found {found}"


def _board(path: Path, expected: Sequence[Row]) -> Iterator[str]:
    """Numbers of leaderboard.csv that are not those computed again; compared as text, as they were written."""
    if not path.is_file():
        yield f"{path.name}: expected the leaderboard, found none"
        return
    try:
        found = list(csv.DictReader(read_table_text(path).splitlines()))
    except (ArtifactError, csv.Error) as error:
        yield f"{path.name}: expected the leaderboard, found another file: {error}"
        return
    columns = columns_of(expected)
    if found and set(found[0]) != set(columns):
        for name in sorted(set(columns) ^ set(found[0]), key=str):
            there = name in columns
            yield f"{path.name}: expected {'the' if there else 'no'} column {name}, found {'none' if there else 'one'}"
    if len(found) != len(expected):
        yield f"{path.name}: expected {len(expected)} rows, found {len(found)}"
        return
    for number, (row, record) in enumerate(zip(expected, found, strict=True), 1):
        for name in columns:
            if name in record and row.text(name) != record[name]:
                yield (
                    f"{path.name}, row {number} ({row.attack} from {row.source_bits or 'nothing'} on {row.target}), "
                    f"column {name}: expected {row.text(name) or 'nothing'}, computed from the outcomes, found "
                    f"{record[name] or 'nothing'}"
                )
