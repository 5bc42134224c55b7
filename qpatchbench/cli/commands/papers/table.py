"""`qpatchbench table`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from qpatchbench.cli.options import runs_option
from qpatchbench.papers.printed.published_tables import PublishedTable, published_table, published_tables

FORMATS = ("csv", "md", "tex")
ALL, CONTRADICTIONS = "all", "contradictions"


@click.command("table")
@click.argument("name")
@runs_option("Run folder to compare with; repeatable, the first that has a cell wins.", required=False)
@click.option("--published-only", is_flag=True, help="The published numbers alone; needs no run.")
@click.option(
    "--stand-in",
    "stand_ins",
    multiple=True,
    metavar="PUBLISHED=MEASURED",
    help="Show one architecture for another, resnet56=resnet20, where that adds cells; they cannot tell.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="md", show_default=True, help="Of the output.")
@click.option("--output", type=click.Path(path_type=Path), help="File, or folder for `all` [default: standard output].")
def table(
    name: str, runs: tuple[Path, ...], published_only: bool, stand_ins: tuple[str, ...], form: str, output: Path | None
) -> None:
    """Print a table of the two papers with what was measured beside every number.

    NAME is triqdef.1 to triqdef.18, qadtr.1 to qadtr.21 (`qpatchbench list tables`), all, or contradictions.

    In the printed layout (md, tex) a cell reads: measured [95 % interval] / published, verdict. Verdicts: = holds, the
    published number lies in the measured interval; ~ ordering holds, it does not, but its row or column is ordered as
    published; x does not hold; ? cannot tell, with the reason below the table: another protocol (other images, fewer of
    them, less training, ...), a failed check or too wide an interval; - not measured, with what was looked for in vain.
    csv has one row per published number with everything it belongs to.
    """
    if name == CONTRADICTIONS:
        if runs or published_only or stand_ins:
            raise click.UsageError("contradictions need neither --run nor --published-only nor --stand-in")
        _write({CONTRADICTIONS: _contradictions(form)}, form, output, folder=False)
        return
    tables = list(published_tables().values()) if name == ALL else [_known(name)]
    if bool(runs) == published_only:
        raise click.UsageError("expected one of --run DIR (repeatable) and --published-only")
    texts = _texts(tables, runs, _pairs(stand_ins), form, one_file=name == ALL and output is None)
    _write(texts, form, output, folder=name == ALL)


def _known(name: str) -> PublishedTable:
    from qpatchbench.errors import UnknownNameError

    try:
        return published_table(name)
    except UnknownNameError:
        raise UnknownNameError("table", name, [*published_tables(), ALL, CONTRADICTIONS]) from None


def _pairs(stand_ins: Sequence[str]) -> dict[str, str]:
    from qpatchbench.errors import suggestion

    known = {value.model for each in published_tables().values() for value in each.values if value.model}
    pairs = {}
    for text in stand_ins:
        published, sign, measured = text.partition("=")
        if not (published and sign and measured):
            raise click.BadParameter(f"expected PUBLISHED=MEASURED, found {text!r}", param_hint="--stand-in")
        if published not in known:
            raise click.BadParameter(
                f"no published architecture {published!r}.{suggestion(published, known)}", param_hint="--stand-in"
            )
        pairs[published] = measured
    return pairs


def _texts(
    tables: Sequence[PublishedTable], runs: Sequence[Path], stand_ins: dict[str, str], form: str, *, one_file: bool
) -> dict[str, str]:
    """Text of every table by name, or of all of them together."""
    from qpatchbench.papers.matching import SearchedRun
    from qpatchbench.papers.tables.fill import FilledTable, filled
    from qpatchbench.papers.tables.table_texts import as_csv, as_latex, as_markdown
    from qpatchbench.report.leaderboard.published import read_folder

    sources = [SearchedRun(read_folder(run), stand_ins) for run in runs]
    write: Callable[[Sequence[FilledTable]], str] = {"csv": as_csv, "md": as_markdown, "tex": as_latex}[form]
    done = [filled(each, sources) for each in tables]
    return {ALL: write(done)} if one_file else {each.published.name: write([each]) for each in done}


def _contradictions(form: str) -> str:
    from qpatchbench.papers.printed.contradictions import contradictions
    from qpatchbench.papers.tables.table_texts import contradictions_csv, contradictions_latex, contradictions_markdown

    return {"csv": contradictions_csv, "md": contradictions_markdown, "tex": contradictions_latex}[form](
        contradictions()
    )


def _write(texts: dict[str, str], form: str, output: Path | None, *, folder: bool) -> None:
    from qpatchbench.runs.files import write_atomically

    if output is None:
        for text in texts.values():
            click.echo(text, nl=False)
        return
    for name, text in texts.items():
        path = output / f"{name}.{form}" if folder or output.is_dir() else output
        click.echo(str(write_atomically(path, text.encode())))


COMMANDS = {"table": table}
