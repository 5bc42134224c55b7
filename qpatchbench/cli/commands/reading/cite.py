"""`qpatchbench cite`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("cite")
@click.argument("runs", type=click.Path(path_type=Path, file_okay=False), nargs=-1, required=True, metavar="RUN...")
@click.option("--output", type=click.Path(path_type=Path), help="File [default: standard output].")
def cite(runs: tuple[Path, ...], output: Path | None) -> None:
    """Print BibTeX of all that runs are built on: attacks, defenses, quantizers, preprocessors, models, datasets.

    Each entry stands once, below the components that it is cited for. Components that no paper is known of, such as
    controls, are named on standard error.
    """
    from qpatchbench.registry import REGISTRIES
    from qpatchbench.report.citations.used import cite as cited
    from qpatchbench.report.leaderboard.published import read_folder
    from qpatchbench.runs.files import write_atomically

    found = cited([read_folder(run) for run in runs])
    if output is None:
        click.echo(found.bibtex, nl=False)
    else:
        click.echo(str(write_atomically(output, found.bibtex.encode())))
    if found.without:
        names = ", ".join(f"{REGISTRIES[each.kind].kind} {each.name}" for each in found.without)
        click.echo(f"no reference: {names}", err=True)


COMMANDS = {"cite": cite}
