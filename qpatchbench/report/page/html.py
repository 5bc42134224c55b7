"""One self-contained HTML file: what ran, failed checks, the leaderboard, plots, errors, the manifest."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2

from qpatchbench.evaluation.checks.explanations import EXPLANATIONS
from qpatchbench.report.figures.of_a_run import Plots
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.page.checks import overview
from qpatchbench.report.page.definitions import DEFINITIONS
from qpatchbench.report.page.tables import COLUMNS, RIGHT, readable, source_text, stamps
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import Run


def page(run: Run, board: Leaderboard, plots: Plots) -> str:
    """The report; every text of a suite or a traceback is escaped."""
    manifest, frame = run.manifest, board.frame
    template = files("qpatchbench.report.page").joinpath("template.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        suite=str(manifest.get("suite", "")),
        description=str(manifest.get("description", "")).strip(),
        stamps=stamps(manifest, frame),
        ran=_ran(run),
        failures=_failures(board),
        checks=overview([_row_label(row) for row in frame.to_dict("records")], board.checks),
        total=len(frame),
        definitions=DEFINITIONS,
        columns=[(name, "number" if name in RIGHT else "text") for name in COLUMNS],
        rows=[
            {"cells": cells, "failed": "fail" in checks or status != "ok"}
            for cells, checks, status in zip(readable(frame), frame["checks"], frame["status"], strict=True)
        ],
        left_out=plots.left_out,
        plots=[
            {"name": plot.name, "title": plot.title, "data": base64.b64encode(plot.png).decode()}
            for plot in plots.plots
        ],
        errors=[{"label": _label(cell), "text": cell.error} for cell in run.cells if cell.status == "error"],
        manifest=[(name, _text(value)) for name, value in manifest.items()],
    )


def _ran(run: Run) -> list[tuple[str, str]]:
    """Facts that a reader wants first; only those that the manifest has."""
    manifest, cells = run.manifest, run.cells
    failed = sum(cell.status == "error" for cell in cells)
    controls = sum(cell.control for cell in cells)
    git = manifest.get("git") or {}
    revision = str(git.get("revision", "")) + (" with uncommitted changes" if git.get("dirty") else "")
    versions = manifest.get("versions") or {}
    facts = [
        ("dataset", manifest.get("dataset_note") or ", ".join(sorted({cell.dataset for cell in cells}))),
        ("models", ", ".join(sorted({cell.model for cell in cells}))),
        ("defenses", ", ".join(sorted({cell.defense for cell in cells}))),
        ("preprocessors", ", ".join(sorted({cell.preprocessor for cell in cells} - {"none"}))),
        ("quantization", ", ".join(sorted({cell.quantization for cell in cells}))),
        ("attacks", ", ".join(sorted({cell.attack for cell in cells if not cell.control}))),
        ("evaluation images", ", ".join(str(count) for count in sorted({c.n_images for c in cells if c.n_images}))),
        ("cells", f"{len(cells)}: {len(cells) - controls} of attacks, {controls} of controls; {failed} failed"),
        ("seeds", ", ".join(map(str, manifest.get("seeds", [])))),
        ("device", str(manifest.get("device", ""))),
        ("revision", revision),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return [(name, value) for name, value in facts if value]


def _failures(board: Leaderboard) -> list[Mapping[str, Any]]:
    """Failed checks by id, each with the rows that failed it."""
    rows: dict[str, list[dict[str, str]]] = {}
    for facts, checks in zip(board.frame.to_dict("records"), board.checks, strict=True):
        for check in checks:
            if check.verdict == "fail":
                rows.setdefault(check.id, []).append({"label": _row_label(facts), "message": check.message})
    return [
        {"id": name, "rows": rows[name], **EXPLANATIONS[name]._asdict()}
        for name in sorted(rows, key=lambda name: int(name[1:]))
    ]


def _row_label(row: Mapping[Any, Any]) -> str:
    size = " ".join(filter(None, (f"{row['patch_height']}x{row['patch_width']}", row["transformation"])))
    target = f"{row['model']} {row['defense']} {row['quantization']}@{row['target_bits']}{_behind(row['preprocessor'])}"
    return f"{row['attack']} {size} from {source_text(row)} on {target}"


def _label(cell: CellRecord) -> str:
    source = f" from {cell.source_model} {cell.source_defense} {cell.source_quantization}@{cell.source_bits}"
    source += _behind(cell.source_preprocessor)
    target = f"{cell.model} {cell.defense} {cell.quantization}@{cell.target_bits}{_behind(cell.preprocessor)}"
    size = " ".join(filter(None, (f"{cell.patch_height}x{cell.patch_width}", cell.transformation)))
    return f"{cell.attack} {size}{source if cell.source_model else ''} on {target}, seed {cell.seed}"


def _behind(preprocessor: str) -> str:
    return "" if preprocessor == "none" else f" + {preprocessor}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
