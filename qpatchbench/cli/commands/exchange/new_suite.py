"""`qpatchbench suite new`: a suite for a network of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import click

from qpatchbench.errors import OutputError, SuiteError


@click.group("suite")
def suite() -> None:
    """Write a suite for a network of your own."""


def _three(context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...]:
    if value is None:
        return ()
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise click.BadParameter(f"expected three numbers, such as 0.49,0.48,0.45, found {value!r}")
    return numbers


@suite.command("new")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.yaml")
@click.option(
    "--model", required=True, metavar="NAME", help="A model's name, timm/NAME, or my_net.py:build for your own."
)
@click.option("--weights", default="", metavar="FILE", help="Its checkpoint [default: the suite trains it].")
@click.option("--dataset", default="cifar10", show_default=True, metavar="NAME", help="Name of a dataset.")
@click.option("--mean", callback=_three, metavar="R,G,B", help="Subtracted from pixels in [0, 1], for your own.")
@click.option("--std", callback=_three, metavar="R,G,B", help="Divides them after that, for your own.")
@click.option("--image-size", type=click.IntRange(min=1), metavar="SIDE", help="That your own network works at.")
def new(
    file: Path,
    model: str,
    weights: str,
    dataset: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    image_size: int | None,
) -> None:
    """Write a commented suite for a network, without a question; names of files are relative to FILE."""
    from qpatchbench.runs.files import write_atomically
    from qpatchbench.scaffold.own_suite import OwnNetwork, own_suite
    from qpatchbench.suite.file.load import load_suite

    if file.exists():
        raise OutputError(f"{file}: already there; choose another name")
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", file.stem).lstrip("_.-") or "mine"
    write_atomically(file, own_suite(name, OwnNetwork(model, weights, dataset, mean, std, image_size)).encode())
    try:
        load_suite(file)
    except SuiteError:
        file.unlink()
        raise
    click.echo(f"{file}: written; qpatchbench run {file}")


COMMANDS = {"suite": suite}
