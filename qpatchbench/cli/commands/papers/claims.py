"""`qpatchbench claims`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from qpatchbench.cli.options import runs_option

FORMATS = ("csv", "md", "tex")


@click.command("claims")
@runs_option(
    "Run folder to test on; repeatable, rows of all runs count, those on the same networks once: of the first."
)
@click.option("--paper", metavar="NAME", help="triqdef or qadtr [default: both].")
@click.option("--format", "form", type=click.Choice(FORMATS), default="md", show_default=True, help="Of the output.")
@click.option("--output", type=click.Path(path_type=Path), help="File [default: standard output].")
def claims(runs: tuple[Path, ...], paper: str | None, form: str, output: Path | None) -> None:
    """Test what the two papers claim on the rows of runs.

    Every claim is a sentence read as a hypothesis: a rate, a difference or a ratio of two kinds of rows above or
    below a threshold, in every group of rows or in some. Differences are paired on the same images where the run folder
    holds outcomes.parquet, otherwise computed from counts as if independent; intervals of several groups hold together
    at 95 %.

    Verdicts as published: holds, the whole interval lies on the claimed side of the threshold; does not hold, it lies
    on the other side; cannot tell, it covers the threshold, or the protocol is not the paper's (other images, fewer of
    them, less training, another architecture, a failed check), or the claim needs what runs do not measure; not
    measured, with the first facet that no row has.

    Verdicts under the protocol of these runs: holds, does not hold or too close, by intervals that hold together for
    all claims; rows that fail a check that makes them meaningless decide nothing.
    """
    from qpatchbench.papers.claims.claim_texts import as_csv, as_latex, as_markdown
    from qpatchbench.papers.claims.examine import Finding, examine_all
    from qpatchbench.papers.claims.hypotheses import claims_of
    from qpatchbench.papers.claims.select import ClaimSource
    from qpatchbench.report.leaderboard.published import read_folder
    from qpatchbench.runs.files import write_atomically

    wanted = claims_of(paper)
    sources = [ClaimSource(read_folder(run)) for run in dict.fromkeys(runs)]
    write: Callable[[Sequence[Finding]], str] = {"csv": as_csv, "md": as_markdown, "tex": as_latex}[form]
    text = write(examine_all(wanted, sources))
    if output is None:
        click.echo(text, nl=False)
    else:
        click.echo(str(write_atomically(output, text.encode())))


COMMANDS = {"claims": claims}
