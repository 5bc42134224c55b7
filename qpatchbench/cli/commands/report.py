"""`qpatchbench report`."""

from __future__ import annotations

from pathlib import Path

import click

from qpatchbench.errors import suggestion


@click.command("report")
@click.argument("run_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--format", "formats", default="csv,md,tex,html", show_default=True, help="Which files to write.")
def report(run_dir: Path, formats: str) -> None:
    """Write every report file of RUN_DIR again from its records, byte for byte the same."""
    from qpatchbench.report.page.build import FORMATS, build

    wanted = [part.strip() for part in formats.split(",") if part.strip()]
    for name in wanted:
        if name not in FORMATS:
            raise click.BadParameter(f"no format {name!r}.{suggestion(name, FORMATS)}", param_hint="--format")
    for path in build(run_dir, wanted):
        click.echo(str(path))


COMMANDS = {"report": report}
