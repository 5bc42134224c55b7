"""`qpatchbench validate` and `qpatchbench schema`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from qpatchbench.errors import SuiteError


@click.command("validate")
@click.argument("suites", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
def validate(suites: tuple[Path, ...]) -> int:
    """Check suite files, at every scale, without touching data, weights or results.

    Exit code 2 at the first invalid suite, after printing all its errors.
    """
    from qpatchbench.suite.file.load import load_suite, scales_of

    for path in suites:
        try:
            for scale in (None, *scales_of(path)):
                load_suite(path, scale=scale)
        except SuiteError as error:
            for problem in error.problems:
                click.echo(problem, err=True)
            count = len(error.problems)
            click.echo(f"{path}: invalid, {count} {'error' if count == 1 else 'errors'}", err=True)
            return 2
        click.echo(f"{path}: valid")
    return 0


@click.command("schema")
@click.argument("what", type=click.Choice(["suite", "record"]))
def schema(what: str) -> None:
    """Print the JSON schema of suite files or of result records."""
    if what == "record":
        from qpatchbench.runs.records import CellRecord

        found = CellRecord.model_json_schema()
    else:
        from qpatchbench.suite.file.json_schema import suite_schema

        found = suite_schema()
    click.echo(json.dumps(found, indent=2))


COMMANDS = {"validate": validate, "schema": schema}
