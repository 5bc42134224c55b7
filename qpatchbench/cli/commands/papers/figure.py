"""`qpatchbench figure`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qpatchbench.cli.options import runs_option

if TYPE_CHECKING:
    from qpatchbench.report.leaderboard.published import RunFolder

ALL = "all"


@click.command("figure")
@click.argument("name")
@runs_option("Run folder to draw from; repeatable, the first that has a number wins.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the files go [default: figures in the first run folder].",
)
def figure(name: str, runs: tuple[Path, ...], output: Path | None) -> None:
    """Draw a figure from what runs measured, for print.

    NAME is one of `qpatchbench list figures`, or all for every figure of the papers that the runs have data for. Those
    of the report of a run are drawn by their names; there, without the bounds of the report.

    Every picture is written as PDF (vectors, fonts embedded) and as PNG (300 dots per inch), one for each dataset,
    model, defense or patch that one picture should not mix; the same run gives the same bytes. Bars are 95 % intervals,
    of costs quartiles. Lines stand slightly beside each other, so that their bars do not cover each other.
    """
    from qpatchbench.errors import ArtifactError, UnknownNameError
    from qpatchbench.report.figures import CATALOGUE
    from qpatchbench.report.leaderboard.published import read_folder

    if name not in (*CATALOGUE, ALL):
        raise UnknownNameError("figure", name, [*CATALOGUE, ALL])
    folders = [read_folder(run) for run in dict.fromkeys(runs)]
    target = output or runs[0] / "figures"
    names = [each for each, entry in CATALOGUE.items() if entry.of_a_paper] if name == ALL else [name]
    lacking = []
    for each in names:
        written = False
        for path in _written(each, folders, target):
            click.echo(str(path))
            written = True
        if not written:
            lacking.append(f"no data for {each}: a suite that makes it states {CATALOGUE[each].needs}")
    if len(lacking) == len(names):
        raise ArtifactError(f"{', '.join(map(str, dict.fromkeys(runs)))}: " + "; ".join(lacking))
    for text in lacking:
        click.echo(text, err=True)


def _written(name: str, folders: Sequence[RunFolder], target: Path) -> Iterator[Path]:
    from qpatchbench.report.figures import CATALOGUE, drawings
    from qpatchbench.report.figures.drawing.style import printed
    from qpatchbench.runs.files import write_atomically

    for drawing in drawings(CATALOGUE[name], folders):
        for ending, data in printed(drawing.figure).items():
            yield write_atomically(target / f"{drawing.name}.{ending}", data)


COMMANDS = {"figure": figure}
