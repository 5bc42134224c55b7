"""Options and places that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from qpatchbench.runs.standard_folders import cache_dir, data_dir

__all__ = ["cache_dir", "data_dir"]

Command = TypeVar("Command", bound=Callable[..., Any])

SUITE = click.argument("suite", type=click.Path(path_type=Path, dir_okay=False))
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a field, e.g. training.epochs=5; repeatable.",
)
SCALE = click.option(
    "--scale", metavar="NAME", help="One of the suite's scales, e.g. small; results go to results/<suite>_<scale>."
)
DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where datasets lie [default: $QPATCHBENCH_DATA].",
)
LIMIT = click.option("--limit", type=click.IntRange(min=1), help="Evaluate at most N images; marks results partial.")
SEEDS = click.option("--seeds", metavar="0,1,2", help="Seeds instead of the suite's.")


def runs_option(told: str, *, required: bool = True) -> Callable[[Command], Command]:
    """`--run DIR`, repeatable; `told` is its help."""
    folder = click.Path(path_type=Path, file_okay=False)
    return click.option("--run", "runs", multiple=True, required=required, type=folder, metavar="DIR", help=told)


def with_shorthands(overrides: tuple[str, ...], limit: int | None, seeds: str | None) -> list[str]:
    """`--limit` and `--seeds` as the overrides they stand for."""
    extra = [] if limit is None else [f"limit={limit}"]
    return [*overrides, *extra, *([] if seeds is None else [f"seeds=[{seeds}]"])]
