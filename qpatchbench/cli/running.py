"""From a loaded suite to a finished run folder: identify, plan, execute, export, report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qpatchbench.cli.display import make_display
from qpatchbench.cli.run import FORMATS, is_complete
from qpatchbench.cli.summary import print_leaderboard
from qpatchbench.suite.identify import loaded_data_keys, remembered_data_keys, weights_keys
from qpatchbench.suite.plan import Plan, make_plan
from qpatchbench.suite.schema import Suite
from qpatchbench.suite.source import Source
from qpatchbench.suite.store import Store, write_atomically

if TYPE_CHECKING:
    import torch


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
) -> int:
    """Run a suite; returns the exit code.

    Raises:
        SuiteError: its dataset or weights are not there.
        StorageError: a disk refuses; what was finished is kept.
    """
    keys = remembered_data_keys(suite, data_dir, cache)
    weights = weights_keys(suite, source)  # before any image is decoded: missing weights are found in no time
    plan = None if keys is None else make_plan(suite, keys, weights)
    if plan is not None and not fresh and is_complete(output, plan):
        click.echo(f"{suite.suite}: nothing to do, all {len(plan.jobs)} jobs and the report are done")
        print_leaderboard(output)
        return 0
    return _compute(suite, source, plan, weights, output, data_dir, cache, device, fresh, display)


def _compute(
    suite: Suite,
    source: Source,
    plan: Plan | None,
    weights: Mapping[str, str],
    output: Path,
    data_dir: Path,
    cache: Path,
    device: str,
    fresh: bool,
    display: str | None,
) -> int:
    from qpatchbench.suite.bench import Workbench
    from qpatchbench.suite.execute import Execution
    from qpatchbench.suite.export import export
    from qpatchbench.suite.work import BenchWorker

    bench = Workbench(suite, Store(cache), data_dir, device_named(device))
    if plan is None:
        plan = make_plan(suite, loaded_data_keys(bench, source), weights)
    if fresh:
        for job in plan.jobs:
            bench.store.remove(job.kind, job.key)
    with make_display(display, plan, bench.store) as shown:
        execution = Execution(plan, bench.store, BenchWorker(bench), shown)
        execution.run()
        export(execution, bench, output, source.data)
    from qpatchbench.report.build import build

    files = [str(path.relative_to(output)) for path in build(output, FORMATS)]
    report = {"plan": plan.key, "files": sorted(files)}
    write_atomically(output / ".report.json", json.dumps(report).encode())
    print_leaderboard(output)
    if execution.errors:
        click.echo(
            f"{len(execution.errors)} of {len(plan.jobs)} jobs failed; their tracebacks are in report.html", err=True
        )
        return 1
    return 0


def device_named(name: str) -> torch.device:
    """The device to compute on; auto is a GPU where there is one.

    Raises:
        click.BadParameter: no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise click.BadParameter(f"expected auto, cpu, cuda or cuda:N, found {name!r}", param_hint="--device") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("no CUDA device is here; use --device cpu", param_hint="--device")
    torch.backends.cudnn.deterministic = True
    return device
