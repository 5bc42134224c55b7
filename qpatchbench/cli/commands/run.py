"""`qpatchbench run`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qpatchbench.cli.options import DATA_DIR, LIMIT, SCALE, SEEDS, SET, SUITE, cache_dir, data_dir, with_shorthands
from qpatchbench.runs.files import sha256_of
from qpatchbench.runs.layout import EXAMPLES, MANIFEST, REPORT_FACTS
from qpatchbench.runs.manifest import read_manifest
from qpatchbench.runs.ownership import claim, refuse_foreign, writing_alone

if TYPE_CHECKING:
    from qpatchbench.suite.execution.workers.choice import CrewChoice
    from qpatchbench.suite.file.schema import Suite
    from qpatchbench.suite.file.source import Source
    from qpatchbench.suite.plan.plan import Plan

EXECUTORS = ("serial", "process", "ray")
FORMATS = ("csv", "md", "tex", "html")


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

        show_plan(planned(loaded, source, data_dir, device))
        return 0
    folder = output or Path("results") / loaded.suite
    if not overwrite:
        refuse_foreign(folder, loaded.suite, loaded.limit is not None)
    return execute_suite(
        loaded,
        source,
        output=folder,
        data_dir=_data_dir(data_dir),
        cache=cache_dir().absolute(),  # a plugin may change the working folder
        device=device,
        fresh=fresh,
        display=display,
        time_limit=time_limit,
        crew=_crew(executor, workers, ray_address, device),
    )


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


def is_complete(output: Path, plan: Plan) -> bool:
    """Whether the run folder holds the complete results and report of this plan, byte for byte as they were written."""
    try:
        manifest = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
        report = json.loads((output / REPORT_FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(manifest, dict) or not isinstance(report, dict):
        return False
    unchanged = report.get("plan") == manifest.get("plan") == plan.key and manifest.get("complete") is True
    written = report.get("files")
    if not unchanged or not isinstance(written, dict) or not written:
        return False
    return all((output / name).is_file() and sha256_of(output / name) == kept for name, kept in written.items())


def _written(output: Path, pages: Iterable[Path]) -> dict[str, str]:
    """Every file of the run folder and its hash: those of the report, those the manifest names, and the manifest."""
    manifest = read_manifest(output / MANIFEST)
    names = {MANIFEST, EXAMPLES, *manifest["files"], *(str(entry["file"]) for entry in manifest["patches"])}
    names |= {path.relative_to(output).as_posix() for path in pages}
    return {name: sha256_of(output / name) for name in sorted(names)}


def execute_suite(
    suite: Suite,
    source: Source,
    *,
    output: Path,
    data_dir: Path,
    cache: Path,
    device: str,
    fresh: bool,
    display: str | None,
    time_limit: float | None = None,
    crew: CrewChoice | None = None,
) -> int:
    """Run a suite, on a crew of workers or, without one, in this process; returns the exit code.

    Raises:
        SuiteError: its dataset or weights are not there.
        StorageError: a disk refuses; what was finished is kept.
    """
    from qpatchbench.cli.print_leaderboard import print_leaderboard
    from qpatchbench.suite.plan.fingerprints import remembered_data_keys, weights_keys
    from qpatchbench.suite.plan.plan import make_plan
    from qpatchbench.suite.store.plugin_facts import unidentified

    keys = remembered_data_keys(suite, data_dir, cache)
    weights = weights_keys(
        suite, source, cache, fetch=True
    )  # before any image is decoded: missing weights are found in no time
    plan = None if keys is None else make_plan(suite, keys, weights)
    if plan is not None and not fresh and not unidentified(suite) and is_complete(output, plan):
        click.echo(f"{suite.suite}: nothing to do, all {len(plan.jobs)} jobs and the report are done")
        print_leaderboard(output)
        _say_partial(suite)
        return 0
    return _compute(suite, source, weights, output, data_dir, cache, device, fresh, display, time_limit, crew)


def _compute(
    suite: Suite,
    source: Source,
    weights: Mapping[str, str],
    output: Path,
    data_dir: Path,
    cache: Path,
    device: str,
    fresh: bool,
    display: str | None,
    time_limit: float | None,
    crew: CrewChoice | None,
) -> int:
    from qpatchbench.cli.display import make_display
    from qpatchbench.cli.print_leaderboard import print_leaderboard
    from qpatchbench.runs.files import write_atomically
    from qpatchbench.suite.execution.device import device_named
    from qpatchbench.suite.execution.executor import Execution
    from qpatchbench.suite.execution.export import export
    from qpatchbench.suite.execution.passing import passing
    from qpatchbench.suite.plan.network_fit import require_networks
    from qpatchbench.suite.plan.paces import remember_jobs
    from qpatchbench.suite.plan.plan import make_plan
    from qpatchbench.suite.plan.sizes import estimated_sizes
    from qpatchbench.suite.store.plugin_facts import unidentified
    from qpatchbench.suite.store.store import Store
    from qpatchbench.suite.work.workbench import Workbench, loaded_data_keys
    from qpatchbench.suite.work.worker import BenchWorker

    here = device if crew is None else crew.device_here(device)
    bench = Workbench(suite, Store(cache), data_dir, device_named(here))
    require_networks(suite, source, fetch=True)
    # From the images themselves: what an earlier run remembers of them may have been edited since.
    keys = loaded_data_keys(bench, source)
    plan = make_plan(suite, keys, weights)
    if fresh:
        for job in plan.jobs:
            bench.store.remove(job.kind, job.key)
    survey = suite.dataset.survey(data_dir)
    with writing_alone(output), make_display(display, plan, bench.store) as shown:
        claim(output, suite.suite)
        for remark in survey.remarks if survey is not None else ():
            shown.note(remark)
        strange = unidentified(suite)
        for what in strange:
            alone = "" if crew is None else ", here and not by workers"
            shown.note(f"{what}; what is made with it is not kept in the cache, and every run makes it again{alone}")
        execution = Execution(plan, bench.store, BenchWorker(bench), shown, time_limit=time_limit)
        with passing(plan, bench.store):
            if crew is None or strange:
                execution.run()
            else:
                from qpatchbench.suite.execution.workers.dispatcher import Dispatcher
                from qpatchbench.suite.execution.workers.setup import Setup

                setup = Setup.of(execution, bench, source, keys, weights, device)
                Dispatcher(execution, crew.hired(setup)).run()
            ran = set(execution.ran)
            remember_jobs(cache, (job for job in plan.jobs if job.key in ran), bench.store, estimated_sizes(plan))
            export(execution, bench, output, source.data)
        from qpatchbench.report.page.build import build

        report = {"plan": plan.key, "files": _written(output, build(output, FORMATS))}
        write_atomically(output / REPORT_FACTS, json.dumps(report).encode())
    print_leaderboard(output)
    _say_partial(suite)
    if mixed := read_manifest(output / MANIFEST)["mixed"]:
        click.echo(f"mixed run: its jobs were not computed alike, so that no single machine repeats it: {mixed}")
    if execution.errors:
        click.echo(
            f"{len(execution.errors)} of {len(plan.jobs)} jobs failed; their tracebacks are in report.html", err=True
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
