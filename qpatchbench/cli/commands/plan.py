"""`qpatchbench plan`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click

from qpatchbench.cli.display import clock
from qpatchbench.cli.options import DATA_DIR, LIMIT, SCALE, SEEDS, SET, SUITE, data_dir, with_shorthands
from qpatchbench.runs.files import size_text
from qpatchbench.runs.standard_folders import cache_place
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import Source

if TYPE_CHECKING:
    from qpatchbench.data.base import Survey as DatasetSurvey
    from qpatchbench.suite.needs.plan_needs import JobNeeds, PlanNeeds
    from qpatchbench.suite.plan.paces import Gain, Paces
    from qpatchbench.suite.plan.time_needed import PlanTime

_data_dir = data_dir
CLASSES_SHOWN = 12
Measure: TypeAlias = Literal["no", "plain", "compiled"]  # networks, before a plan is made


@click.command("plan")
@SUITE
@SCALE
@SET
@DATA_DIR
@LIMIT
@SEEDS
@click.option("--all", "everything", is_flag=True, help="Show every job, not only the first ones of each kind.")
@click.option("--device", default="auto", show_default=True, help="Whose time: auto, cpu, cuda, cuda:N or mps.")
@click.option("--measure", is_flag=True, help="Measure for some seconds how fast the device is, and remember it.")
@click.option(
    "--measure-compiled", is_flag=True, help="The same, and what compile: true gains: a minute for each network."
)
@click.option("--json", "as_json", is_flag=True, help="All jobs with their passes and seconds, for programs.")
def plan(
    suite: Path,
    scale: str | None,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    limit: int | None,
    seeds: str | None,
    everything: bool,
    device: str,
    measure: bool,
    measure_compiled: bool,
    as_json: bool,
) -> None:
    """Show what running SUITE would do: its jobs, which are done, and the cost of the rest.

    Cost is in passes of one image, a backward pass counted as two; in time where it is known how fast this device
    is: from runs that ended here, or from --measure; and in bytes on disk and in memory, with a warning where they are
    not there. Reads no images beyond their hashes, builds every network to see that weights, images and attacks fit it,
    and computes nothing else.
    """
    from qpatchbench.suite.file.load import load_with_source

    loaded, source = load_with_source(suite, with_shorthands(overrides, limit, seeds), scale)
    how: Measure = "compiled" if measure_compiled else "plain" if measure else "no"
    made = planned(loaded, source, data_dir, device, Path("results") / loaded.suite, measure=how)
    if as_json:
        click.echo(json.dumps(as_data(made), indent=1, ensure_ascii=False))
        return
    show_plan(made, everything=everything)
    for line in _scale_lines(suite, scale, made):
        click.echo(line)


@dataclass(frozen=True)
class ShownPlan:
    """A plan with what it costs here.

    Attributes:
        gains: "MODEL" or "MODEL with fake quantizers" -> what other fields would gain on its passes, as far as known.
        remarks: what a person should know of images and weights before any work.
        place: whose time is told: device and threads.
    """

    suite: Suite
    cache: Path
    time: PlanTime
    needs: PlanNeeds
    remarks: tuple[str, ...]
    place: str
    gains: Mapping[str, Sequence[Gain]]
    survey: DatasetSurvey | None


def planned(
    suite: Suite,
    source: Source,
    data: Path | None,
    device: str,
    output: Path,
    *,
    measure: Measure = "no",
) -> ShownPlan:
    """Plan a loaded suite that will be run into `output`, and measure its networks before, where that is asked for."""
    from qpatchbench.data.looking import DatasetAbsent
    from qpatchbench.suite.execution.device import device_named
    from qpatchbench.suite.needs.job_estimates import estimates_of
    from qpatchbench.suite.needs.plan_needs import plan_needs
    from qpatchbench.suite.plan.fingerprints import UNREAD, remembered_data_keys, unread_data_keys, weights_keys
    from qpatchbench.suite.plan.network_fit import require_networks
    from qpatchbench.suite.plan.paces import place_of, read_paces, remember
    from qpatchbench.suite.plan.plan import make_plan
    from qpatchbench.suite.plan.sizes import estimated_sizes
    from qpatchbench.suite.plan.time_needed import time_needed
    from qpatchbench.suite.store.provenance import ran_on
    from qpatchbench.suite.store.published_store import opened_store

    cache, address = cache_place()
    remembered = remembered_data_keys(suite, _data_dir(data), cache)
    weights = weights_keys(suite, source, cache)
    require_networks(suite, source)
    made = make_plan(suite, remembered or unread_data_keys(suite), weights)
    where = device_named(device)
    place = place_of(ran_on(where))
    if measure != "no":
        from qpatchbench.suite.plan.calibration import measured

        told = partial(click.echo, err=True)
        found = measured(suite, where, lambda title: told(f"measuring {title}"), fused=measure == "compiled")
        remember(cache, place, found)
    remarks = []
    if remembered is None:
        remarks.append(f"{suite.dataset.title} has not been read yet, so nothing of this suite can be done already")
    remarks += [
        f"the published weights of {title} have not been read yet, so nothing made of them is done"
        for title, key in weights.items()
        if key.endswith(UNREAD)
    ]
    try:
        survey = suite.dataset.survey(_data_dir(data))
    except DatasetAbsent:
        survey = None
    store, sizes = opened_store(cache, address), estimated_sizes(made)
    paces = read_paces(cache, place)
    time = time_needed(made, store, sizes, paces)
    estimates = estimates_of(made, sizes, cache, where, keep=measure != "no")
    needs = plan_needs(made, store, estimates, where, output, read=remembered is not None)
    return ShownPlan(suite, cache, time, needs, tuple(remarks), place, _gains(suite, paces), survey)


def _gains(suite: Suite, paces: Paces) -> dict[str, list[Gain]]:
    ways = {f"{model.title}{' with fake quantizers' * quantized}": list(paces.gains(model.title, quantized))
            for model in suite.models for quantized in (False, True)}  # fmt: skip
    return {name: gains for name, gains in ways.items() if gains}


def show_plan(made: ShownPlan, *, everything: bool = False) -> None:
    """Print a plan."""
    click.echo(f"{made.suite.suite}: {len(made.time.jobs)} jobs in {made.cache}")
    for line in (*made.remarks, *dataset_lines(made, everything=everything)):
        click.echo(line)
    for kind, part in made.time.kinds():
        jobs, told = part.jobs, f", {_duration(part)}" if part.seconds else ""
        done = len(jobs) - len(part.missing)
        click.echo(f"\n{kind}: {len(jobs)} jobs, {done} done, {_passes(part.passes)} to go{told}")
        shown = jobs if everything else jobs[:8]
        for each in shown:
            click.echo(f"  {'done' if each.done else 'to do':5}  {each.job.key[:12]}  {each.job.label}")
        if len(shown) < len(jobs):
            click.echo(f"  ... {len(jobs) - len(shown)} more (--all shows them)")
    for line in (*_time_lines(made), *_needs_lines(made.needs)):
        click.echo(line)


def _needs_lines(found: PlanNeeds) -> Iterator[str]:
    """What the missing jobs take of disk and memory, and where that is not there."""
    if not found.jobs:
        return
    yield (
        f"disk: about {size_text(found.stored)} into {found.cache} ({size_text(found.free[0])} free), about "
        f"{size_text(found.results)} into {found.output} ({size_text(found.free[1])} free)"
    )
    if found.largest is not None:
        from_what = "from what jobs like it took here" if found.measured else "from activations counted without images"
        there = "" if found.available is None else f" ({size_text(found.available)} available)"
        yield (
            f"memory: about {size_text(found.largest.memory or 0.0)} at most, by {found.largest.job.title}{there}; "
            f"{from_what}"
        )
    if found.unknown:
        yield f"and {found.unknown} jobs on networks whose size is not known before they run"
    for shortage in found.shortages():
        yield f"warning: {shortage}"


def _time_lines(made: ShownPlan) -> Iterator[str]:
    """How long the missing jobs take, and which of them longest."""
    found = made.time
    if not found.passes:
        return
    yield ""
    if found.seconds is None:
        yield f"time: not known on {made.place} before something ran here; --measure finds out in seconds"
        return
    rest = f", and {_passes(found.unknown)} of unknown pace" if found.unknown else ""
    yield f"time: {_duration(found)} on {made.place}, one job after the other{rest}"
    for each in found.longest(3):
        if each.seconds:
            yield f"  about {clock(each.seconds)}  {each.job.title}"
    for name, gains in made.gains.items():
        for fields, relative_time, compiling in gains:
            after = f", after {clock(compiling)} of compiling each network" if compiling else ""
            yield f"  passes of {name} take {relative_time:.2f} of their time with {fields}{after}"


def _scale_lines(file: Path, scale: str | None, made: ShownPlan) -> Iterator[str]:
    """What the suite's other scales cost from the start, in passes."""
    from qpatchbench.suite.file.load import load_with_source, scales_of
    from qpatchbench.suite.plan.fingerprints import unread_data_keys, weights_keys
    from qpatchbench.suite.plan.plan import make_plan
    from qpatchbench.suite.plan.sizes import estimated_sizes

    for name in scales_of(file):
        if name == scale:
            continue
        other, source = load_with_source(file, (), name)
        plan = make_plan(other, unread_data_keys(other), weights_keys(other, source, made.cache))
        sizes = estimated_sizes(plan)
        whole = sum(job.cost(sizes) for job in plan.jobs)
        yield f"--scale {name}: {len(plan.jobs)} jobs, {_passes(whole)}"


def as_data(made: ShownPlan) -> dict[str, Any]:
    """A plan as JSON-ready data; seconds and bytes are null where they are not known, or where the job is done."""
    found, needs = made.time, made.needs
    by_key = {each.job.key: each for each in needs.jobs}
    return {
        "schema": 3,
        "suite": made.suite.suite,
        "cache": str(made.cache),
        "place": made.place,
        "passes": found.passes,
        "passes_of_unknown_pace": found.unknown,
        "seconds": found.seconds,
        "gains": {name: [gain._asdict() for gain in gains] for name, gains in made.gains.items()},
        "disk": {"stored": round(needs.stored), "results": round(needs.results), "output": str(needs.output),
                 "free": dict(zip(("stored", "results"), needs.free, strict=True))},
        "memory": {"most": None if needs.largest is None else round(needs.largest.memory or 0),
                   "available": needs.available, "measured": needs.measured},
        "jobs_of_unknown_size": needs.unknown,
        "warnings": [*needs.shortages()],
        "remarks": list(made.remarks),
        "jobs": [
            {"kind": each.job.kind, "key": each.job.key, "label": each.job.label, "done": each.done,
             "passes": each.passes, "seconds": each.seconds, **_bytes(by_key.get(each.job.key))}
            for each in found.jobs
        ],
    }  # fmt: skip


def _bytes(needs: JobNeeds | None) -> dict[str, int | None]:
    known = (None, None) if needs is None else (needs.disk, needs.memory)
    names = ("disk_bytes", "memory_bytes")
    return {name: None if size is None else round(size) for name, size in zip(names, known, strict=True)}


def dataset_lines(made: ShownPlan, *, everything: bool) -> Iterator[str]:
    """The class of each label, and what a person should know of the files; nothing of a dataset that is not there."""
    if made.survey is None:
        return
    names = [f"{label} {name}" for label, name in enumerate(made.survey.class_names)]
    shown = names if everything or len(names) <= CLASSES_SHOWN + 1 else [*names[:CLASSES_SHOWN], "...", names[-1]]
    if names:
        yield f"classes of {made.suite.dataset.title}: {', '.join(shown)}"
    yield from made.survey.remarks


def _duration(found: PlanTime) -> str:
    return f"about {clock(found.seconds or 0.0)}"


def _passes(cost: float) -> str:
    """Cost in forward passes of one image."""
    for unit, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if cost >= size:
            return f"{cost / size:.1f} {unit} image passes"
    return f"{cost:.0f} image passes"


COMMANDS = {"plan": plan}
