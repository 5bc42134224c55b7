"""From a run folder to its report files: the same bytes whenever it is run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qpatchbench.errors import UnknownNameError
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.page.analyses import write_analyses
from qpatchbench.report.page.tables import latex, markdown, stamps, whole_grid
from qpatchbench.runs.files import write_atomically
from qpatchbench.runs.layout import PLOTS, REPORT_PAGE
from qpatchbench.runs.ownership import owned_files
from qpatchbench.runs.run import Run

FORMATS = ("csv", "md", "tex", "html")


def build(run_dir: Path, formats: Sequence[str]) -> tuple[Path, ...]:
    """Write leaderboard.csv, .md and .tex, and with `html` the plots and report.html.

    Args:
        run_dir: a run's folder, where the files go too.
        formats: some of FORMATS.

    Returns:
        The files written, tables first.

    Raises:
        UnknownNameError: a format is not known; nothing was written.
        ArtifactError: the folder lacks a file of a run, or its files contradict each other.
        StorageError: the folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UnknownNameError("format", name, FORMATS)
    run = Run(run_dir)
    board = Leaderboard(run)
    heading = f"{run.manifest.get('suite', run_dir.name)}: leaderboard"
    notes = stamps(run.manifest, board.rows)
    texts: dict[str, Callable[[], str]] = {
        "csv": lambda: whole_grid(board.rows).csv(),
        "md": lambda: markdown(board.rows, heading, notes),
        "tex": lambda: latex(board.rows, heading, notes),
    }
    written = [
        write_atomically(run_dir / f"leaderboard.{name}", text().encode())
        for name, text in texts.items()
        if name in formats
    ]
    written += write_analyses(run_dir, tuple(formats))
    if "html" in formats:
        written += _pictures_and_page(run, board)
    return tuple(written)


def _pictures_and_page(run: Run, board: Leaderboard) -> list[Path]:
    # Imported here: a table should not wait for a plotting library.
    from qpatchbench.report.figures.of_a_run import MOST, draw
    from qpatchbench.report.page.html import page

    drawn = draw(run, board.rows)
    folder = run.directory / PLOTS
    written = [write_atomically(folder / f"{each.name}.png", each.png) for each in drawn.pictures]
    owned = owned_files(run.directory, str(run.manifest.get("suite")))
    for kind in MOST:  # pictures of an earlier report that this one does not have
        for path in folder.glob(f"{kind}_*.png"):
            if path not in written and str(path.relative_to(run.directory)) in owned:
                path.unlink()
    return [*written, write_atomically(run.directory / REPORT_PAGE, page(run, board, drawn).encode())]
