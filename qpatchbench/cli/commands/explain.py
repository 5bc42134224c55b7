"""`qpatchbench explain`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("explain")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False), metavar="RUN")
@click.argument("row", nargs=-1, required=True)
def explain(run_dir: Path, row: tuple[str, ...]) -> None:
    """Trace a row of a leaderboard back to where it comes from.

    ROW is its number in leaderboard.csv, from 1, or conditions on columns that one row alone meets, for example
    attack=lavan source_bits=32 target_bits=4.

    Shown are the counts, taken again from the outcomes of single images; the patch with its attack, source, loss and
    hash; the network and its checkpoint; the lines of the suite; every check with what it means; and a few of the
    images that decide.
    """
    from qpatchbench.report.leaderboard.published import read_folder
    from qpatchbench.report.trace.choose import choose_row
    from qpatchbench.report.trace.explain_row import traced
    from qpatchbench.runs.run import Run

    chosen = choose_row(read_folder(run_dir).rows, row)
    click.echo(traced(Run(run_dir), chosen), nl=False)


COMMANDS = {"explain": explain}
