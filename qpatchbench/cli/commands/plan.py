"""`qpatchbench plan`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from qpatchbench.cli.options import DATA_DIR, LIMIT, SCALE, SEEDS, SET, SUITE, cache_dir, data_dir, with_shorthands
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import Source

_data_dir = data_dir
CLASSES_SHOWN = 12


@click.command("plan")
@SUITE
@SCALE
@SET
@DATA_DIR
@LIMIT
@SEEDS
@click.option("--all", "everything", is_flag=True, help="Show every job, not only the first ones of each kind.")
def plan(
    suite: Path,
    scale: str | None,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    limit: int | None,
    seeds: str | None,
    everything: bool,
) -> None:
    """Show what running SUITE would do: its jobs, which are done, and the cost of the rest.

    Reads no images beyond their hashes, builds every network to see that weights, images and attacks fit it, and
    computes nothing else.
    """
    from qpatchbench.suite.file.load import load_with_source

    loaded, source = load_with_source(suite, with_shorthands(overrides, limit, seeds), scale)
    show_plan(loaded, source, data_dir, everything=everything)


def show_plan(suite: Suite, source: Source, data: Path | None, *, everything: bool = False) -> None:
    """Print the plan of a loaded suite."""
    from qpatchbench.suite.plan.fingerprints import (
        UNREAD,
        remembered_data_keys,
        unread_data_keys,
        weights_keys,
    )
    from qpatchbench.suite.plan.network_fit import require_networks
    from qpatchbench.suite.plan.plan import make_plan
    from qpatchbench.suite.plan.sizes import estimated_sizes
    from qpatchbench.suite.store.store import Store

    cache = cache_dir()
    remembered = remembered_data_keys(suite, _data_dir(data), cache)
    keys = remembered or unread_data_keys(suite)
    weights = weights_keys(suite, source, cache)
    require_networks(suite, source)
    made = make_plan(suite, keys, weights)
    store, sizes = Store(cache), estimated_sizes(made)
    click.echo(f"{suite.suite}: {len(made.jobs)} jobs in {cache}")
    if remembered is None:
        click.echo(f"{suite.dataset.title} has not been read yet, so nothing of this suite can be done already")
    for title, key in weights.items():
        if key.endswith(UNREAD):
            click.echo(f"the published weights of {title} have not been read yet, so nothing made of them is done")
    for line in dataset_lines(suite, _data_dir(data), everything=everything):
        click.echo(line)
    for kind in dict.fromkeys(job.kind for job in made.jobs):
        jobs = [job for job in made.jobs if job.kind == kind]
        missing = [job for job in jobs if not store.has(job.kind, job.key)]
        cost = sum(job.cost(sizes) for job in missing)
        click.echo(f"\n{kind}: {len(jobs)} jobs, {len(jobs) - len(missing)} done, {_passes(cost)} to go")
        shown = jobs if everything else jobs[:8]
        for job in shown:
            state = "done" if job not in missing else "to do"
            click.echo(f"  {state:5}  {job.key[:12]}  {job.label}")
        if len(shown) < len(jobs):
            click.echo(f"  ... {len(jobs) - len(shown)} more (--all shows them)")


def dataset_lines(suite: Suite, data: Path, *, everything: bool) -> Iterator[str]:
    """Which label is which class, and what a person should know of the files; nothing of a dataset that is not there.

    Raises:
        DataError: it is there and cannot be used.
    """
    from qpatchbench.data.looking import DatasetAbsent

    try:
        survey = suite.dataset.survey(data)
    except DatasetAbsent:
        return
    if survey is None:
        return
    names = [f"{label} {name}" for label, name in enumerate(survey.class_names)]
    shown = names if everything or len(names) <= CLASSES_SHOWN + 1 else [*names[:CLASSES_SHOWN], "...", names[-1]]
    if names:
        yield f"classes of {suite.dataset.title}: {', '.join(shown)}"
    yield from survey.remarks


def _passes(cost: float) -> str:
    """Cost in forward passes of one image."""
    for unit, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if cost >= size:
            return f"{cost / size:.1f} {unit} image passes"
    return f"{cost:.0f} image passes"


COMMANDS = {"plan": plan}
