"""The board over runs and entries as one self-contained HTML file, made from their logs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from qpatchbench.evaluation.checks.explanations import EXPLANATIONS
from qpatchbench.report.answers.tables_that_open import OpenPictures, log_table
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.report.page.definitions import DEFINITIONS
from qpatchbench.report.page.rendering import rendered
from qpatchbench.report.standings.experiments import Experiment, MemberRow
from qpatchbench.report.standings.standing import Standing
from qpatchbench.report.standings.transfer_matrix import TransferMatrix, transfer_matrices
from qpatchbench.runs.layout import OUTCOMES


def board_page(experiments: Sequence[Experiment], found: Sequence[Standing]) -> str:
    """The page of a report without what only a whole run has: pictures, messages of checks, tracebacks."""
    rows: list[Row] = []
    matrices: list[TransferMatrix] = []
    images: list[tuple[OpenPictures, ...]] = []
    first: dict[tuple[str, ...], int] = {}  # runs of an experiment -> rows of the log before its own
    for experiment in experiments:
        first[experiment.runs] = len(rows)
        own = [members[0].row for members in experiment.rows]
        images += [(_traced(members[0]),) for members in experiment.rows]
        matrices += transfer_matrices(own)
        rows += own
    partial = ["partial: the evaluation images of a run were cut by --limit"]
    names = [run for experiment in experiments for run in experiment.runs]
    return rendered(
        [_renumbered(each, first[each.runs]) for each in found],
        matrices,
        log_table(rows, [()] * len(rows), (), images),
        _failures(rows),
        suite="leaderboard",
        description=f"Made from {len(names)} run{'s' * (len(names) > 1)}: {', '.join(names)}.",
        stamps=partial if any(each.partial for each in found) else [],
        ran=[(experiment.name, ", ".join(experiment.runs)) for experiment in experiments],
        checks=(),
        definitions=DEFINITIONS,
        left_out=(),
        plots=[],
        symbols=[],
        sharp=True,
        errors=[],
        manifest=[],
    )


def _renumbered(each: Standing, before: int) -> Standing:
    """With its rates pointing to rows of the joint log."""
    rates = {
        threat: replace(rate, place=rate.place + before) if rate.place else rate for threat, rate in each.rates.items()
    }
    return replace(each, rates=rates)


def _traced(member: MemberRow) -> OpenPictures:
    """Where a row's images are to be found; a page may be read anywhere, so that folders have their own names alone."""
    folder = Path(member.folder).resolve().name
    if not member.is_whole:
        lacking = f"none here, as {folder} lacks the {OUTCOMES} of this row"
        return OpenPictures("images", f"{lacking}, by which qpatchbench explain would name them")
    told = f"none here, as this page is made from logs; qpatchbench explain {folder} {member.line}"
    return OpenPictures("images", told)


def _failures(rows: Sequence[Row]) -> list[Mapping[str, object]]:
    """Failed checks by id, each with the rows that failed it."""
    failed: dict[str, list[dict[str, str]]] = {}
    for number, row in enumerate(rows, 1):
        for name in row.failed_checks.split()[1:]:
            failed.setdefault(name, []).append({"label": row.label, "message": row.checks, "number": str(number)})
    return [
        {"id": name, "rows": failed[name], **EXPLANATIONS[name]._asdict()}
        for name in sorted(failed, key=lambda name: int(name[1:]))
    ]
