"""The page that reports and boards share: its template, with all that follows from standings."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from qpatchbench.report.answers.panels import bits_panels, dot_plots, legend, matrix_panel
from qpatchbench.report.answers.sentences import answers
from qpatchbench.report.answers.svg import PagePanel
from qpatchbench.report.answers.tables_that_open import OpenTable, board_table
from qpatchbench.report.standings.standing import Standing
from qpatchbench.report.standings.transfer_matrix import TransferMatrix

MOST_MATRICES = 40


def rendered(
    found: Sequence[Standing],
    matrices: Sequence[TransferMatrix],
    log: OpenTable,
    failures: Sequence[Mapping[str, Any]],
    **parts: object,
) -> str:
    """The page; every text in it is escaped.

    Args:
        found: what it answers from.
        matrices: of all runs; those of the board's size with several sources come first, at most MOST_MATRICES.
        log: the rows behind it.
        failures: failed checks of these rows, by id, each with its explanation.
        parts: everything else that the template shows.
    """
    sizes = {each.size for each in found}
    ordered = sorted(matrices, key=lambda each: (each.size not in sizes, len(each.sources) < 2))
    shown = {
        "defenses": [*map(_saved, dot_plots(found))],
        "bits": [*map(_saved, bits_panels(found))],
        "transfer": [*map(_saved, map(matrix_panel, ordered[:MOST_MATRICES]))],
    }
    sections = [
        *(("answers", "answers"), ("standings", "board"), ("defenses", "defenses"), ("bits", "ASR by bits")),
        *(("transfer", "transfer"), ("pictures", "patches"), ("cells", "all patches"), ("checks", "checks")),
        *(("what-ran", "what ran"), ("definitions", "definitions"), ("manifest", "manifest")),
    ]
    present = {**dict.fromkeys((anchor for anchor, _ in sections), True), **shown, "pictures": parts["plots"]}
    present["manifest"] = parts["manifest"]
    return _template().render(
        style=_text_of("style.css.j2"),
        script=_text_of("script.js.j2"),
        sections=[(anchor, name) for anchor, name in sections if present[anchor]],
        answers=answers(found, {str(each["id"]): len(each["rows"]) for each in failures}),
        failures=failures,
        size=" or ".join(sorted(sizes - {""})),
        board=board_table(found),
        legend=legend(found),
        dots=shown["defenses"],
        curves=shown["bits"],
        matrices=shown["transfer"],
        matrices_left_out=max(0, len(matrices) - MOST_MATRICES),
        log=log,
        total=len(log.rows),
        **parts,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.from_string(_text_of("template.html.j2"))


def _text_of(name: str) -> str:
    return files("qpatchbench.report.page").joinpath(name).read_text(encoding="utf-8")


def _saved(panel: PagePanel) -> dict[str, str]:
    """A panel with its data as the page offers them."""
    data = base64.b64encode(panel.csv.encode()).decode()
    return {"title": panel.title, "svg": panel.svg, "data": data, "file": re.sub(r"\W+", "_", panel.title)}
