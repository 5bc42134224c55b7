"""`qpatchbench plugin`: a component of one's own, written and checked."""

from __future__ import annotations

import logging
import shutil
import textwrap
import time
from collections import Counter
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qpatchbench.testing.kit import Result
    from qpatchbench.testing.targets import Target


import importlib.util
from pathlib import Path

from qpatchbench.errors import QPatchBenchError, StorageError, suggestion
from qpatchbench.scaffold import FIRST_COMMANDS, KINDS, names_for, scaffold
from qpatchbench.scaffold.naming import Names


@click.group("plugin")
def plugin() -> None:
    """Write a component of your own, and check that it keeps its promises."""


WORDS = {"passed": "ok", "failed": "FAILED", "expected": "expected", "does not apply": "does not apply"}
MARGIN = 18
NARROWEST = 60


@plugin.command("check")
@click.argument("target")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights, images and draws.")
@click.option("--quiet", is_flag=True, help="Only failures and the summary.")
def check(target: str, seed: int, quiet: bool) -> int:
    """Hold the components of TARGET to every invariant of their kind.

    TARGET is an installed package, a module or a .py file, or one component of it: my_plugin:my_defense. `qpatchbench`
    is the built-ins. Components are tried with few steps on tiny networks and images; a class attribute
    trial = {field: value} gives fields that have no default.

    A line says ok; FAILED, with what was expected, what was found and what to do; expected, a failure that the class
    announces in expected_failures, with the reason; or does not apply, and why. Exit code 1 if a check failed, 2 if
    there is no such target.
    """
    import lightning_fabric  # noqa: F401 (its import sets the level)

    from qpatchbench.testing.targets import targets_of

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of every choice of precision
    started, verdicts = time.monotonic(), Counter[str]()
    targets = targets_of(target)
    for one in targets:
        verdicts.update(_checked(one, seed, quiet))
    parts = [f"{verdicts[verdict]} {word}" for verdict, word in WORDS.items() if verdicts[verdict]]
    count = f"{len(targets)} component{'s' if len(targets) > 1 else ''}"
    click.echo(f"{count}, seed {seed}: {', '.join(parts)} ({time.monotonic() - started:.0f} s)")
    return 1 if verdicts["failed"] else 0


def _checked(target: Target, seed: int, quiet: bool) -> Counter[str]:
    """The verdicts on one component, told as they come."""
    from qpatchbench.errors import PluginError
    from qpatchbench.testing.fixtures.trials import trial
    from qpatchbench.testing.kit import run_checks

    if not quiet:
        click.echo(f"{target.kind} {target.name}")

    def told(result: Result) -> None:
        if not quiet or result.verdict == "failed":
            click.echo(_line(result, f"{target.kind} {target.name}: " if quiet else ""))

    try:
        results = run_checks(trial(target.component, target.name), seed=seed, told=told)
    except PluginError as error:  # it cannot be made, or announces the failure of a check that does not exist
        click.echo(f"  {WORDS['failed']:<{MARGIN - 2}}{error}")
        return Counter({"failed": 1})
    return Counter(result.verdict for result in results)


def _line(result: Result, prefix: str) -> str:
    text = f"{prefix}{result.name}{': ' if result.message else ''}{result.message}"
    width = max(shutil.get_terminal_size().columns, NARROWEST)
    return textwrap.fill(
        text, width, initial_indent=f"  {WORDS[result.verdict]:<{MARGIN - 2}}", subsequent_indent=" " * MARGIN,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


class _Kind(click.ParamType[str]):
    """A kind of component, singular or plural."""

    name = "kind"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> str:
        singular = value.removesuffix("s")
        if singular not in KINDS:
            self.fail(f"no kind {value!r}.{suggestion(singular, KINDS)}", param, context)
        return singular


@plugin.command("new")
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
    for command in (f"cd {folder}", *FIRST_COMMANDS):
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


COMMANDS = {"plugin": plugin}
