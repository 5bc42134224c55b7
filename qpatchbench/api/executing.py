"""The execution of a suite from its plan to its report, for the command line and for Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from qpatchbench.errors import ArtifactError
from qpatchbench.runs.files import sha256_of, write_atomically
from qpatchbench.runs.layout import EXAMPLES, MANIFEST, REPORT_FACTS
from qpatchbench.runs.manifest import read_manifest, read_object
from qpatchbench.runs.ownership import claim, writing_alone
from qpatchbench.suite.execution.executor import Display, Execution
from qpatchbench.suite.plan.plan import Plan, make_plan
from qpatchbench.suite.store.published_store import opened_store
from qpatchbench.suite.store.store import Store

if TYPE_CHECKING:
    from qpatchbench.suite.execution.workers.choice import CrewChoice
    from qpatchbench.suite.file.schema import Suite
    from qpatchbench.suite.file.source import Source

# What shows the progress of a plan whose finished jobs are in a store.
DisplayOf: TypeAlias = Callable[[Plan, Store], AbstractContextManager[Display]]


@dataclass(frozen=True)
class Executed:
    """What became of a run.

    Attributes:
        plan: what there was to do.
        nothing_to_do: the run folder held all of it already.
        errors: key of every failed job -> traceback.
    """

    plan: Plan
    nothing_to_do: bool
    errors: Mapping[str, str]


def is_complete(output: Path, plan: Plan) -> bool:
    """Whether the run folder holds the complete results and report of this plan, byte for byte as they were written."""
    try:
        manifest, report = (read_object(output / name) for name in (MANIFEST, REPORT_FACTS))
    except ArtifactError:
        return False
    unchanged = report.get("plan") == manifest.get("plan") == plan.key and manifest.get("complete") is True
    written = report.get("files")
    if not unchanged or not isinstance(written, dict) or not written:
        return False
    return all((output / name).is_file() and sha256_of(output / name) == kept for name, kept in written.items())


def executed(
    suite: Suite,
    source: Source,
    *,
    output: Path,
    data_dir: Path,
    cache: Path,
    device: str,
    fresh: bool,
    display: DisplayOf,
    time_limit: float | None = None,
    crew: CrewChoice | None = None,
    address: str | None = None,
) -> Executed:
    """Run a suite, on a crew of workers or, without one, in this process, and write its folder and report.

    Finished artifacts are published at `address`, and fetched from there, where it is given.

    Raises:
        SuiteError: its dataset or weights are not there.
        StorageError: a disk refuses; what was finished is kept.
    """
    from qpatchbench.suite.plan.fingerprints import remembered_data_keys, weights_keys
    from qpatchbench.suite.store.plugin_facts import unidentified

    keys = remembered_data_keys(suite, data_dir, cache)
    # Before any image is decoded: missing weights are found in no time.
    weights = weights_keys(suite, source, cache, fetch=True)
    plan = None if keys is None else make_plan(suite, keys, weights)
    if plan is not None and not fresh and not unidentified(suite) and is_complete(output, plan):
        return Executed(plan, True, {})

    # They load torch, for which a run that has nothing to do does not wait.
    from qpatchbench.report.page.build import FORMATS, build
    from qpatchbench.suite.execution.device import device_named
    from qpatchbench.suite.execution.export import export
    from qpatchbench.suite.execution.passing import passing
    from qpatchbench.suite.needs.experience import remember_needs
    from qpatchbench.suite.needs.job_estimates import estimates_of
    from qpatchbench.suite.needs.plan_needs import plan_needs
    from qpatchbench.suite.plan.network_fit import require_networks
    from qpatchbench.suite.plan.paces import remember_jobs
    from qpatchbench.suite.plan.sizes import estimated_sizes
    from qpatchbench.suite.work.workbench import Workbench, loaded_data_keys
    from qpatchbench.suite.work.worker import BenchWorker

    here = device if crew is None else crew.device_here(device)
    bench = Workbench(suite, opened_store(cache, address), data_dir, device_named(here))
    require_networks(suite, source, fetch=True)
    # From the images themselves: what an earlier run remembers of them may have been edited since.
    seen = loaded_data_keys(bench, source)
    plan = make_plan(suite, seen, weights)
    if fresh:
        for job in plan.jobs:
            bench.store.remove(job.kind, job.key)
    survey = suite.dataset.survey(data_dir)
    estimates = estimates_of(plan, estimated_sizes(plan), cache, bench.device)
    with writing_alone(output), display(plan, bench.store) as shown:
        claim(output, suite.suite)
        for remark in survey.remarks if survey is not None else ():
            shown.note(remark)
        needs = plan_needs(plan, bench.store, estimates, bench.device, output, read=True)
        for shortage in needs.shortages():
            shown.note(f"warning: {shortage}")
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

                setup = Setup.of(execution, bench, source, seen, weights, device)
                memory = crew.memory_here(estimates, bench.device, setup.devices)
                Dispatcher(execution, crew.hired(setup, needs), memory).run()
            ran = [job for job in plan.jobs if job.key in {*execution.ran}]
            remember_jobs(cache, ran, bench.store, estimates.around.sizes)
            remember_needs(cache, ran, bench.store, estimates.around)
            export(execution, bench, output, source.data)
        report = {"plan": plan.key, "files": _written(output, build(output, FORMATS))}
        write_atomically(output / REPORT_FACTS, json.dumps(report).encode())
    return Executed(plan, False, dict(execution.errors))


def _written(output: Path, pages: Iterable[Path]) -> dict[str, str]:
    """Every file of the run folder and its hash: those of the report, those the manifest names, and the manifest."""
    manifest = read_manifest(output / MANIFEST)
    names = {MANIFEST, EXAMPLES, *manifest["files"], *(str(entry["file"]) for entry in manifest["patches"])}
    names |= {path.relative_to(output).as_posix() for path in pages}
    return {name: sha256_of(output / name) for name in sorted(names)}
