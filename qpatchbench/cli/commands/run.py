"""`qpatchbench run`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qpatchbench.cli.options import DATA_DIR, LIMIT, SCALE, SEEDS, SET, SUITE, data_dir, with_shorthands
from qpatchbench.runs.layout import MANIFEST
from qpatchbench.runs.manifest import read_manifest
from qpatchbench.runs.ownership import refuse_foreign
from qpatchbench.runs.standard_folders import cache_place

if TYPE_CHECKING:
    from qpatchbench.api.executing import Executed
    from qpatchbench.suite.execution.workers.choice import CrewChoice
    from qpatchbench.suite.file.schema import Suite

EXECUTORS = ("serial", "process", "ray")


@click.command("run")
@SUITE
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Run folder [default: results/<suite>]."
)
@SCALE
@SET
@DATA_DIR
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@LIMIT
@SEEDS
@click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default="serial",
    show_default=True,
    help="Where jobs run: one by one in this process, or several at once in processes or on a Ray cluster.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="How many jobs run at once, unless serial; several may share a GPU [default: one for each core].",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    envvar="RAY_ADDRESS",
    help="Cluster that --executor ray joins [default: $RAY_ADDRESS, or a local one that ends with the run].",
)
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--fresh", is_flag=True, help="Compute every job of this suite again.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), help="Seconds that one job may take.")
@click.option("--overwrite", is_flag=True, help="Write into a folder that holds files or results of something else.")
@click.option("--checks", type=click.Choice(["off", "fast", "full"]), help="Validity checks instead of the suite's.")
@click.option("--display", type=click.Choice(["rich", "plain", "none"]), help="Progress [default: rich on a terminal].")
def run(
    suite: Path,
    output: Path | None,
    scale: str | None,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    device: str,
    limit: int | None,
    seeds: str | None,
    executor: str,
    workers: int | None,
    ray_address: str | None,
    dry_run: bool,
    fresh: bool,
    time_limit: float | None,
    overwrite: bool,
    checks: str | None,
    display: str | None,
) -> int:
    """Run SUITE: train or load models, craft patches, transfer them, write leaderboards and plots.

    The same command again resumes: what is finished is never computed twice.
    """
    from qpatchbench.suite.file.load import load_with_source

    extra = [] if checks is None else [f"evaluation.checks={checks}"]
    loaded, source = load_with_source(suite, [*with_shorthands(overrides, limit, seeds), *extra], scale)
    if dry_run:
        from qpatchbench.cli.commands.plan import planned, show_plan

        show_plan(planned(loaded, source, data_dir, device, output or Path("results") / loaded.suite))
        return 0
    folder = output or Path("results") / loaded.suite
    if not overwrite:
        refuse_foreign(folder, loaded.suite, loaded.limit is not None)
    crew = _crew(executor, workers, ray_address, device)

    from qpatchbench.api.executing import executed
    from qpatchbench.cli.display import make_display

    place = cache_place()
    done = executed(
        loaded,
        source,
        output=folder,
        data_dir=_data_dir(data_dir),
        cache=place.folder.absolute(),  # a plugin may change the working folder
        address=place.address,
        device=device,
        fresh=fresh,
        display=partial(make_display, display),
        time_limit=time_limit,
        crew=crew,
    )
    return _told(loaded, folder, done)


def _crew(executor: str, workers: int | None, ray_address: str | None, device: str) -> CrewChoice | None:
    """Who works; None: this process alone."""
    if executor == "serial":
        if workers is not None:
            raise click.BadParameter("only --executor process and ray have workers", param_hint="--workers")
        return None
    if executor == "ray" and device.startswith("cuda:"):
        raise click.BadParameter("Ray gives GPUs to its workers; use --device cuda", param_hint="--device")
    from qpatchbench.suite.execution.workers.choice import CrewChoice

    return CrewChoice(executor == "ray", workers, ray_address)


_data_dir = data_dir


def _told(suite: Suite, output: Path, done: Executed) -> int:
    """Say on the terminal what became of a run; the exit code."""
    from qpatchbench.cli.print_leaderboard import print_leaderboard

    if done.nothing_to_do:
        click.echo(f"{suite.suite}: nothing to do, all {len(done.plan.jobs)} jobs and the report are done")
    print_leaderboard(output)
    _say_partial(suite)
    if done.nothing_to_do:
        return 0
    if mixed := read_manifest(output / MANIFEST)["mixed"]:
        click.echo(f"mixed run: its jobs were not computed alike, so that no single machine repeats it: {mixed}")
    if done.errors:
        click.echo(
            f"{len(done.errors)} of {len(done.plan.jobs)} jobs failed; their tracebacks are in report.html", err=True
        )
        return 1
    return 0


def _say_partial(suite: Suite) -> None:
    if suite.limit is not None:
        click.echo(
            f"partial run: at most {suite.limit} evaluation images, by --limit; its numbers are no results of "
            f"suite {suite.suite!r}"
        )


COMMANDS = {"run": run}
