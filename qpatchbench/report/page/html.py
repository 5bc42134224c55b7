"""One self-contained HTML file: what ran, failed checks, the leaderboard, plots, errors, the manifest."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from qpatchbench.evaluation.checks.explanations import EXPLANATIONS
from qpatchbench.report.figures.of_a_run import Pictures
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.leaderboard.row import row_of
from qpatchbench.report.page.checks import overview
from qpatchbench.report.page.definitions import DEFINITIONS
from qpatchbench.report.page.tables import readable_grid, stamps
from qpatchbench.runs.run import Run


def page(run: Run, board: Leaderboard, drawn: Pictures) -> str:
    """The report; every text of a suite or a traceback is escaped."""
    manifest, rows = run.manifest, board.rows
    failed = {place for place, row in enumerate(rows) if row.failed_checks or row.status != "ok"}
    template = files("qpatchbench.report.page").joinpath("template.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        suite=str(manifest.get("suite", "")),
        description=str(manifest.get("description", "")).strip(),
        stamps=stamps(manifest, rows),
        ran=_ran(run),
        failures=_failures(board),
        checks=overview([row.label for row in rows], board.checks),
        total=len(rows),
        definitions=DEFINITIONS,
        leaderboard=Markup(readable_grid(rows).html(failed)),  # noqa: S704 (the grid escapes its cells)
        left_out=drawn.left_out,
        plots=[
            {"name": plot.name, "title": plot.title, "data": base64.b64encode(plot.png).decode()}
            for plot in drawn.pictures
        ],
        errors=[
            {"label": f"{row_of(cell).label}, seed {cell.seed}", "text": cell.error}
            for cell in run.cells
            if cell.status == "error"
        ],
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
    for row, checks in zip(board.rows, board.checks, strict=True):
        for check in checks:
            if check.verdict == "fail":
                rows.setdefault(check.id, []).append({"label": row.label, "message": check.message})
    return [
        {"id": name, "rows": rows[name], **EXPLANATIONS[name]._asdict()}
        for name in sorted(rows, key=lambda name: int(name[1:]))
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
