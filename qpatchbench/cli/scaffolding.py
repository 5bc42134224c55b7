"""`qpatchbench plugin new`: a package with a component of one's own, which works as it is written."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from qpatchbench.errors import QPatchBenchError, StorageError, suggestion
from qpatchbench.scaffold import COMMANDS, KINDS, names_for, scaffold
from qpatchbench.scaffold.naming import Names


class _Kind(click.ParamType[str]):
    """A kind of component, singular or plural."""

    name = "kind"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> str:
        singular = value.removesuffix("s")
        if singular not in KINDS:
            self.fail(f"no kind {value!r}.{suggestion(singular, KINDS)}", param, context)
        return singular


@click.command("new")
@click.argument("kind", type=_Kind())
@click.argument("name")
@click.option(
    "--dir",
    "parent",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the folder of the package is made [default: here].",
)
def new(kind: str, name: str, parent: Path) -> None:
    """Write a package with a component that works, its tests, a suite and a README.

    KIND is attack, defense, quantizer, preprocessor, model or dataset; NAME, in snake_case, is what suites will call
    the component. Nothing outside the new folder is touched.
    """
    names = names_for(kind, name)
    folder = parent / names.distribution
    _require_free(names, folder)
    files = scaffold(kind, name)
    try:
        folder.mkdir(parents=True)
        for path, text in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    for path in files:
        click.echo(f"wrote {folder / path}")
    click.echo("\nIt works as it is. Try it, and then make it yours; README.md says what to edit:")
    for command in (f"cd {folder}", *COMMANDS):
        click.echo(f"  {command.format(module=names.module)}")


def _require_free(names: Names, folder: Path) -> None:
    """Refuse what would hide, or be hidden by, something that is already there."""
    known = KINDS[names.kind].entries.get(names.name)
    if known is not None:
        raise QPatchBenchError(
            f"expected a name that no {names.kind} has, found {names.name!r}, which is {known.plugin}. "
            f"Nearest: my_{names.name}"
        )
    if folder.exists():
        raise QPatchBenchError(f"expected a folder that is not there yet, found {folder}; choose another --dir or name")
    if importlib.util.find_spec(names.module) is not None:
        nearest = f"{names.name}_{names.kind}"
        raise QPatchBenchError(
            f"expected a module that is not installed yet, found {names.module}. Nearest name: {nearest}"
        )
