"""`qpatchbench entry`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("entry")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False), metavar="RUN")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="New folder, results/entries/NAME.")
@click.option("--author", "authors", multiple=True, required=True, metavar="NAME", help="Repeatable, in order.")
@click.option("--title", help="Title of the citation [default: the suite's name].")
@click.option("--url", default="", help="Where the entry, or its paper, is found.")
@click.option("--without-pictures", is_flag=True, help="Leave out patches and maps, which may be large.")
def entry(
    run_dir: Path, output: Path, authors: tuple[str, ...], title: str | None, url: str, without_pictures: bool
) -> None:
    """Write a leaderboard entry from a finished run: manifest, patches, outcomes of single images, leaderboard, BibTeX.

    An entry is a complete run by committed code: a partial run, one with failed jobs, one from a checkout with
    uncommitted changes and one whose numbers do not follow from its outcomes are refused. Failed checks are no reason
    to refuse; they stay in the rows and are listed. That its suite is the committed one, `verify --suite FILE` says.

    Without its pictures an entry still has every outcome, so that `verify` counts every number again; no prediction can
    be made again, which `verify` says.
    """
    import datetime

    from qpatchbench.report.entries.recount import manifest_of
    from qpatchbench.report.entries.write import Citation, failed_checks, write_entry
    from qpatchbench.report.leaderboard.published import read_folder

    name = title or f"{manifest_of(run_dir).get('suite', run_dir.name)}: adversarial patches across bit-widths"
    citation = Citation(authors, name, url, datetime.date.today().year)
    written = write_entry(run_dir, output, citation, without_pictures=without_pictures)
    rows = read_folder(output).rows
    size = sum(path.stat().st_size for path in written) / 1e6
    click.echo(f"{output}: {len(rows)} rows, {len(written)} files, {size:.1f} MB")
    for check, count in failed_checks(rows).items():
        click.echo(f"  check {check} failed in {count} of {len(rows)} rows; they are shown, but not ranked")
    click.echo(f"anybody can check it with: qpatchbench verify {output}")


COMMANDS = {"entry": entry}
