"""From a run folder to its report files: the same bytes whenever it is run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from qpatchbench.errors import UnknownNameError
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.page.analyses import analysis_texts
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
    written = [write_atomically(run_dir / name, data) for name, data in contents(run, Leaderboard(run), formats)]
    if "html" in formats:
        _remove_other_pictures(run, set(written))
    return tuple(written)


def contents(run: Run, board: Leaderboard, formats: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Name within the run folder and bytes of every report file, tables first and the page last.

    Raises:
        ArtifactError: the folder lacks a file of a run, or its files contradict each other.
    """
    heading = f"{run.manifest.get('suite', run.directory.name)}: leaderboard"
    notes = stamps(run.manifest, board.rows)
    texts: dict[str, Callable[[], str]] = {
        "csv": lambda: whole_grid(board.rows).csv(),
        "md": lambda: markdown(board.rows, heading, notes),
        "tex": lambda: latex(board.rows, heading, notes),
    }
    for form, text in texts.items():
        if form in formats:
            yield f"leaderboard.{form}", text().encode()
    for name, written in analysis_texts(run.directory, formats):
        yield name, written.encode()
    if "html" in formats:
        # Imported here: a table should not wait for a plotting library.
        from qpatchbench.report.figures.of_a_run import draw
        from qpatchbench.report.page.html import page

        drawn = draw(run, board.rows)
        for each in drawn.pictures:
            yield f"{PLOTS}/{each.name}.png", each.png
        yield REPORT_PAGE, page(run, board, drawn).encode()


def _remove_other_pictures(run: Run, written: set[Path]) -> None:
    """Delete pictures of an earlier report that this one does not have."""
    from qpatchbench.report.figures.of_a_run import MOST

    owned = owned_files(run.directory, str(run.manifest.get("suite")))
    for kind in MOST:
        for path in (run.directory / PLOTS).glob(f"{kind}_*.png"):
            if path not in written and str(path.relative_to(run.directory)) in owned:
                path.unlink()
