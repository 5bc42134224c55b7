"""One self-contained HTML file: answers, board, plots with text, pictures, the log, checks, the manifest."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from qpatchbench.evaluation.checks.explanations import EXPLANATIONS
from qpatchbench.report.answers.tables_that_open import log_table
from qpatchbench.report.figures.drawing.style import file_name
from qpatchbench.report.figures.of_a_run import Pictures
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import Row, row_of
from qpatchbench.report.page.checks import overview
from qpatchbench.report.page.definitions import DEFINITIONS
from qpatchbench.report.page.rendering import rendered
from qpatchbench.report.page.row_pictures import row_pictures
from qpatchbench.report.page.tables import stamps
from qpatchbench.report.standings.experiments import one_experiment
from qpatchbench.report.standings.standing import standings
from qpatchbench.report.standings.threats import threats_of
from qpatchbench.report.standings.transfer_matrix import transfer_matrices
from qpatchbench.runs.run import Run

MOST_RATES = 20
MOST_PICTURE_BYTES = 700_000  # of PNG; with 600 rows and their images the page stays under 3 MB


def page(run: Run, board: Leaderboard, drawn: Pictures) -> str:
    """The report; every text of a suite or a traceback is escaped."""
    manifest, rows = run.manifest, board.rows
    folder = RunFolder(str(run.directory), manifest, tuple(row.rounded() for row in rows))
    found = standings([one_experiment(folder, run)])
    pictures, too_large = _shown(drawn, folder.rows)
    deciding = row_pictures(run, rows)
    return rendered(
        found,
        transfer_matrices(folder.rows),
        log_table(rows, board.checks, run.cells, deciding.rows),
        _failures(board),
        suite=str(manifest.get("suite", "")),
        description=str(manifest.get("description", "")).strip(),
        stamps=stamps(manifest, rows),
        ran=_ran(run),
        checks=overview([row.label for row in rows], board.checks),
        definitions=DEFINITIONS,
        left_out=(*drawn.left_out, *too_large),
        plots=pictures,
        symbols=[symbol.svg for symbol in deciding.symbols],
        sharp=deciding.sharp,
        errors=[
            {"label": f"{row_of(cell).label}, seed {cell.seed}", "text": cell.error}
            for cell in run.cells
            if cell.status == "error"
        ],
        manifest=[(name, _text(value)) for name, value in manifest.items()],
    )


def _shown(drawn: Pictures, rows: Sequence[Row]) -> tuple[list[dict[str, str]], list[str]]:
    """Patches and patched images, within MOST_PICTURE_BYTES; what plots with text say better is left to plots/."""
    shown, left_out, size = [], [], 0
    for picture in drawn.pictures:
        if not picture.name.startswith(("patches_", "pasted_")):
            continue
        if size + len(picture.png) > MOST_PICTURE_BYTES:
            left_out.append(f"plots/{picture.name}.png, as the page would be too large")
            continue
        size += len(picture.png)
        data = base64.b64encode(picture.png).decode()
        shown.append({"name": picture.name, "title": picture.title, "data": data, "rates": _rates(picture.name, rows)})
    return shown, left_out


def _rates(name: str, rows: Sequence[Row]) -> str:
    """ASR of the patches of a picture, each on the network that it was made on."""
    if not name.startswith("patches_"):
        return ""
    own = [
        f"{row.target} {row.number('asr'):.1f} %"
        for row in rows
        if name.endswith("_" + file_name(row.attack, row.size)) and "white_box" in threats_of(row)
    ]
    return ", ".join(own[:MOST_RATES])


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
    for number, (row, checks) in enumerate(zip(board.rows, board.checks, strict=True), 1):
        for check in checks:
            if check.verdict == "fail":
                found = {"label": row.label, "message": check.message, "number": str(number)}
                rows.setdefault(check.id, []).append(found)
    return [
        {"id": name, "rows": rows[name], **EXPLANATIONS[name]._asdict()}
        for name in sorted(rows, key=lambda name: int(name[1:]))
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
