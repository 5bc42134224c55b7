"""`qpatchbench patches`: the patches of a run as files for others."""

from __future__ import annotations

from pathlib import Path

import click

KINDS = ("png", "npy", "safetensors")


@click.command("patches")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False), metavar="RUN")
@click.option("--to", "kind", type=click.Choice(KINDS), default="png", show_default=True, help="Kind of files.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder to write to [default: RUN/patches-png, or as the kind is].",
)
@click.option("--attack", "attacks", multiple=True, metavar="NAME", help="Of this attack alone; repeatable.")
@click.option("--licence", default="", metavar="TEXT", help="Under which they may be passed on, for their passports.")
@click.option("--force", is_flag=True, help="Overwrite earlier results.")
def patches(run_dir: Path, kind: str, out: Path | None, attacks: tuple[str, ...], licence: str, force: bool) -> None:
    """Write the patches of RUN as files that other tools read, with a contact sheet and their passports.

    A passport says attack and fields, network and bits that a patch was crafted on, its targets, how many images were
    looked at, origin and licence. The attack `file` reads every kind again.
    """
    from qpatchbench.report.exchange.passport import travelling
    from qpatchbench.report.exchange.patch_export import export_patches

    found = travelling(run_dir, attacks, licence)
    written = export_patches(found, out or run_dir / f"patches-{kind}", kind, overwrite=force)
    count = sum(len(each.stored.textures) for each in found)
    click.echo(f"{count} patches, a contact sheet and their passports: {written[0].parent}")


COMMANDS = {"patches": patches}
