"""`qpatchbench leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from qpatchbench.report.standings.selection import BoardSelection
    from qpatchbench.report.standings.standing import Standing

FORMATS = ("md", "csv", "tex", "json", "html")
WORSE = 4  # exit code
OF_STANDINGS = frozenset({"columns", "size", "rank_by", "long", "baseline"})  # options of no use to the log of cells


def _names(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


@click.command("leaderboard")
@click.argument("runs", type=click.Path(path_type=Path, file_okay=False), nargs=-1, metavar="RUN...")
@click.option(
    "--entries", type=click.Path(path_type=Path, file_okay=False), help="Folder whose folders are read as well."
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="md", show_default=True, help="Of the output.")
@click.option("--output", type=click.Path(path_type=Path), help="File [default: standard output].")
@click.option(
    "--columns", default="", callback=_names, help="Threats to show in md and tex, comma-separated [default: all]."
)
@click.option("--bits", default="", callback=_names, help="Bits to show, comma-separated [default: all].")
@click.option("--models", default="", callback=_names, help="Models to show, comma-separated [default: all].")
@click.option("--defenses", default="", callback=_names, help="Defenses to show, comma-separated [default: all].")
@click.option("--size", default="", help="Patch size that is compared, such as 6x6 [default: of most white-box rows].")
@click.option(
    "--rank-by", default="", help="Threat that ranks and orders the rows [default: white_box, or the next strongest]."
)
@click.option("--long", "long", is_flag=True, help="LaTeX as one longtable with intervals and counts.")
@click.option("--cells", is_flag=True, help="The log instead: one row per attack, source and target.")
@click.option(
    "--fail-if-worse",
    "baseline",
    type=click.Path(path_type=Path, exists=True),
    metavar="BASELINE",
    help="Exit with 4 if a rate is significantly worse than in a run folder or an earlier --format json.",
)
@click.option(
    "--fill", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Fill a file's marked tables."
)
def leaderboard(
    runs: tuple[Path, ...],
    entries: Path | None,
    form: str,
    output: Path | None,
    columns: tuple[str, ...],
    bits: tuple[str, ...],
    models: tuple[str, ...],
    defenses: tuple[str, ...],
    size: str,
    rank_by: str,
    long: bool,
    cells: bool,
    baseline: Path | None,
    fill: Path | None,
) -> int:
    """Show how every defended network stands, at every bit-width, against every kind of attacker.

    One row per dataset, model, defense, quantizer and bits; one column per threat: clean, random (noise of the same
    size), from_32 (crafted at 32 bits), other_bits, seen, unseen, ensemble, white_box, worst (per image, over all
    patches) and certified, each with its 95 % interval. Ranks come from tests of every pair, after Holm's correction,
    paired where the outcomes of single images are at hand. Runs of one suite with other seeds are pooled.

    Folders that hold only manifest.json and leaderboard.csv are enough. With --fill, every table of a Markdown file
    between `<!-- qpatchbench leaderboard ARGUMENTS -->` and `<!-- end of leaderboard -->` is written anew.
    """
    from qpatchbench.report.standings.selection import BoardSelection
    from qpatchbench.runs.files import write_atomically

    context = click.get_current_context()
    if fill is not None:
        _expect_idle(context, "--fill", {parameter.name for parameter in context.command.params} - {"fill"})
        click.echo(str(write_atomically(fill, _filled(fill).encode())))
        return 0
    chosen = BoardSelection(columns, bits, models, defenses, rank_by)
    if cells:
        _expect_idle(context, "--cells", OF_STANDINGS)
        text = _cells(runs, entries, form, chosen)
        found: Sequence[Standing] = ()
    else:
        from qpatchbench.report.standings.experiments import read_experiments
        from qpatchbench.report.standings.standing import standings

        experiments = read_experiments(runs, entries)
        found = standings(experiments, size)
        shown = chosen.rows(found)
        if form == "html":
            from qpatchbench.report.page.board_page import board_page

            text = board_page(experiments, shown)
        else:
            text = _text(shown, chosen, form, long=long)
    if output is None:
        click.echo(text, nl=False)
    else:
        click.echo(str(write_atomically(output, text.encode())))
    return 0 if baseline is None else _compared(baseline, found, size)


def _text(rows: Sequence[Standing], chosen: BoardSelection, form: str, *, long: bool) -> str:
    from qpatchbench.report.standings import standing_json, standing_texts

    chosen.columns(rows)  # names of columns first
    if form == "json":
        return standing_json.as_json(rows)
    if form == "csv":
        return standing_texts.whole(rows).csv()
    if form == "tex":
        return standing_texts.latex_long(rows, chosen) if long else standing_texts.latex(rows, chosen)
    return standing_texts.markdown(rows, chosen)


def _expect_idle(context: click.Context, option: str, names: Collection[str | None]) -> None:
    """Refuse options that would do nothing beside another one."""
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{option}: expected nothing that it has no use for, found {', '.join(given)}")


def _cells(runs: Sequence[Path], entries: Path | None, form: str, chosen: BoardSelection) -> str:
    from qpatchbench.report.page.tables import readable_grid, whole_grid
    from qpatchbench.report.standings.experiments import read_experiments

    every = [member.row for each in read_experiments(runs, entries) for members in each.rows for member in members]
    rows = chosen.cells(every)
    if form == "csv":
        return whole_grid(rows).csv()
    if form == "md":
        return readable_grid(rows).markdown() + "\n"
    raise click.BadParameter(f"--cells is shown as md or csv, not as {form}", param_hint="--format")


def _compared(baseline: Path, found: Sequence[Standing], size: str) -> int:
    from qpatchbench.report.standings.baseline import read_baseline, worse_than

    comparison = worse_than(read_baseline(baseline, size), found)
    for each in comparison.worse:
        click.echo(f"worse: {each}", err=True)
    click.echo(
        f"{comparison.compared} rates compared with {baseline}, {len(comparison.worse)} worse after Holm's correction "
        "or gone",
        err=True,
    )
    return WORSE if comparison.worse else 0


def _filled(path: Path) -> str:
    from qpatchbench.report.standings.experiments import read_experiments
    from qpatchbench.report.standings.filled import filled
    from qpatchbench.report.standings.selection import BoardSelection
    from qpatchbench.report.standings.standing import standings
    from qpatchbench.report.standings.standing_texts import readable

    def table(arguments: Sequence[str]) -> str:
        context = leaderboard.make_context("leaderboard", list(arguments))
        given = context.params
        _expect_idle(context, "a table in a file", {"form", "output", "long", "baseline", "fill"})
        folders = [path.parent / run for run in given["runs"]]
        chosen = BoardSelection(*(given[name] for name in ("columns", "bits", "models", "defenses", "rank_by")))
        if given["cells"]:
            _expect_idle(context, "--cells", OF_STANDINGS)
            return _cells(folders, given["entries"], "md", chosen)
        rows = chosen.rows(standings(read_experiments(folders, given["entries"]), given["size"]))
        return readable(rows, chosen).markdown() + "\n"

    return filled(path.read_text(encoding="utf-8"), table)


COMMANDS = {"leaderboard": leaderboard}
