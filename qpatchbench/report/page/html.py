"""One self-contained HTML file: answers, board, plots with text, pictures, the log, checks, the manifest."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from qpatchbench.evaluation.checks.explanations import EXPLANATIONS
from qpatchbench.report.answers.panels import bits_panels, dot_plots, legend, matrix_panel
from qpatchbench.report.answers.sentences import answers
from qpatchbench.report.answers.svg import PagePanel
from qpatchbench.report.answers.tables_that_open import board_table, log_table
from qpatchbench.report.figures.drawing.style import file_name
from qpatchbench.report.figures.of_a_run import Pictures
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import Row, row_of
from qpatchbench.report.page.checks import overview
from qpatchbench.report.page.definitions import DEFINITIONS
from qpatchbench.report.page.tables import stamps
from qpatchbench.report.standings.experiments import one_experiment
from qpatchbench.report.standings.standing import Standing, standings
from qpatchbench.report.standings.threats import threats_of
from qpatchbench.report.standings.transfer_matrix import TransferMatrix, transfer_matrices
from qpatchbench.runs.run import Run

MOST_MATRICES = 40
MOST_RATES = 20
MOST_PICTURE_BYTES = 1_300_000  # of PNG; the page stays under 3 MB


def page(run: Run, board: Leaderboard, drawn: Pictures) -> str:
    """The report; every text of a suite or a traceback is escaped."""
    manifest, rows = run.manifest, board.rows
    folder = RunFolder(str(run.directory), manifest, tuple(row.rounded() for row in rows))
    found = standings([one_experiment(folder, run)])
    pictures, too_large = _shown(drawn, folder.rows)
    curves, dots, matrices = [*bits_panels(found)], [*dot_plots(found)], _matrices(folder.rows, found)
    sections = [
        ("answers", "answers"), ("standings", "board"), *([("defenses", "defenses")] if dots else []),
        *([("bits", "ASR by bits")] if curves else []), *([("transfer", "transfer")] if matrices else []),
        ("pictures", "patches"), ("cells", "all patches"), ("checks", "checks"), ("what-ran", "what ran"),
        ("definitions", "definitions"), ("manifest", "manifest"),
    ]  # fmt: skip
    return _template("template.html.j2").render(
        style=_text_of("style.css.j2"),
        script=_text_of("script.js.j2"),
        suite=str(manifest.get("suite", "")),
        description=str(manifest.get("description", "")).strip(),
        stamps=stamps(manifest, rows),
        sections=sections,
        answers=answers(found),
        size=next((each.size for each in found), ""),
        board=board_table(found),
        legend=legend(found),
        dots=[*map(_saved, dots)],
        curves=[*map(_saved, curves)],
        matrices=[*map(_saved, map(matrix_panel, matrices))],
        log=log_table(rows, board.checks, run.cells),
        ran=_ran(run),
        failures=_failures(board),
        checks=overview([row.label for row in rows], board.checks),
        total=len(rows),
        definitions=DEFINITIONS,
        left_out=(*drawn.left_out, *too_large),
        plots=pictures,
        errors=[
            {"label": f"{row_of(cell).label}, seed {cell.seed}", "text": cell.error}
            for cell in run.cells
            if cell.status == "error"
        ],
        manifest=[(name, _text(value)) for name, value in manifest.items()],
    )


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.from_string(_text_of(name))


def _text_of(name: str) -> str:
    return files("qpatchbench.report.page").joinpath(name).read_text(encoding="utf-8")


def _saved(panel: PagePanel) -> dict[str, str]:
    """A panel with its data as the page offers them."""
    data = base64.b64encode(panel.csv.encode()).decode()
    return {"title": panel.title, "svg": panel.svg, "data": data, "file": re.sub(r"\W+", "_", panel.title)}


def _matrices(rows: Sequence[Row], found: Sequence[Standing]) -> list[TransferMatrix]:
    """Those of the board's size with several sources first, within MOST_MATRICES."""
    sizes = {each.size for each in found}
    known = sorted(transfer_matrices(rows), key=lambda each: (each.size not in sizes, len(each.sources) < 2))
    return known[:MOST_MATRICES]


def _shown(drawn: Pictures, rows: Sequence[Row]) -> tuple[list[dict[str, str]], list[str]]:
    """Patches and patched images, within MOST_PICTURE_BYTES; what plots with text say better is left to plots/."""
    shown, left_out, size = [], [], 0
    for picture in drawn.pictures:
        if not picture.name.startswith(("patches_", "pasted_")):
            continue
        size += len(picture.png)
        if size > MOST_PICTURE_BYTES:
            left_out.append(f"plots/{picture.name}.png, as the page would be too large")
            continue
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
