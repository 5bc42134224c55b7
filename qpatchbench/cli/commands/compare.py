"""`qpatchbench compare`."""

from __future__ import annotations

from pathlib import Path

import click

FORMATS = ("md", "csv")


@click.command("compare")
@click.argument("run_a", type=click.Path(path_type=Path, file_okay=False))
@click.argument("run_b", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--defenses", nargs=2, metavar="A B", help="Two defenses of RUN_A instead of two runs.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="md", show_default=True, help="Of the output.")
@click.option("--output", type=click.Path(path_type=Path), help="File [default: standard output].")
def compare(run_a: Path, run_b: Path | None, defenses: tuple[str, str] | None, form: str, output: Path | None) -> None:
    """Compare two runs, or two defenses of one: how much ASR and clean accuracy differ row by row.

    Rows are matched on everything but the seed; those of two defenses of one run, on everything but the defense.
    Differences are B - A in points, with 95 % intervals. Where both sides hold the outcomes of the same images at the
    same places they are paired, with the exact McNemar test for one seed and goal (`only A` and `only B` count the
    images that succeed on one side only). Otherwise they are computed from the rows' own intervals, as if the sides
    were independent, and said to be unpaired. p-values are corrected for the number of comparisons by Holm's method.
    Of two runs it is also shown what differs in their manifests.

    csv: one line per comparison, then the rows of one run only; without what differs in the manifests.
    """
    from qpatchbench.report.compare.difference_texts import as_csv, as_markdown
    from qpatchbench.report.compare.runs import compare_defenses, compare_runs
    from qpatchbench.report.leaderboard.published import read_folder
    from qpatchbench.runs.files import write_atomically

    if (run_b is None) == (defenses is None):
        raise click.UsageError("expected RUN_A RUN_B, or RUN_A --defenses A B")
    if defenses is not None:
        found = compare_defenses(read_folder(run_a), *defenses)
    else:
        assert run_b is not None
        found = compare_runs(read_folder(run_a), read_folder(run_b))
    text = as_csv(found) if form == "csv" else as_markdown(found)
    if output is None:
        click.echo(text, nl=False)
    else:
        click.echo(str(write_atomically(output, text.encode())))


COMMANDS = {"compare": compare}
