"""The comparison of what a run folder says of its cells, patches and networks with the plan of its own suite.

An exchanged label no longer fits the key of its cell: a key is a hash of everything that decides the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qpatchbench.runs.records import CellRecord
from qpatchbench.suite.execution.export_patches import patch_facts
from qpatchbench.suite.execution.network_facts import network_facts, training_facts
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, TrainJob
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.work.evaluate import record_of
from qpatchbench.suite.work.workbench import Workbench

# Found by evaluation, counted again from outcomes, or told by the attack; all other fields follow from the plan.
MEASURED = frozenset(
    {
        *("status", "error", "n_images", "n_clean_correct", "counts", "queries", "queries_median", "n_certified"),
        *("forward_passes", "backward_passes", "checks", "places"),
        *("parameters", "multiplications", "model_bytes", "latency_ms"),
    }
)


def label_findings(plan: Plan, bench: Workbench, cells: Sequence[CellRecord]) -> Iterator[str]:
    """Fields of records that are not those of their jobs; one sentence each."""
    jobs = {job.short_key: job for job in plan.cells}
    for cell in cells:
        job = jobs.get(cell.cell)
        if job is None:
            continue  # told where cells are compared with the plan
        expected = record_of(job, plan.suite, bench.dataset_title(job.target.checkpoint.model))
        for name in CellRecord.model_fields:
            if name not in MEASURED and getattr(expected, name) != getattr(cell, name):
                planned, found = _shown(getattr(expected, name)), _shown(getattr(cell, name))
                where = f"cells.parquet, cell {cell.cell}"
                yield f"{where}: {name}: expected {planned}, for which its key stands, found {found}"


def manifest_findings(plan: Plan, bench: Workbench, manifest: Mapping[str, Any]) -> Iterator[str]:
    """What the manifest says and its own suite, planned again, does not."""
    suite = plan.suite
    splits = bench.splits(suite.models[0])
    expected: dict[str, object] = {
        "plan": plan.key,
        "suite": suite.suite,
        "description": suite.description,
        "seeds": list(suite.seeds),
        "partial": suite.limit is not None,
        "dataset_note": bench.dataset_title(suite.models[0]),
        "class_names": list(splits.class_names),
        "images": {part: len(getattr(splits, part)) for part in ("train", "calibration", "craft", "evaluation")},
    }
    for name, value in expected.items():
        if manifest.get(name) != value:
            yield f"manifest.json, {name}: expected {_shown(value)}, found {_shown(manifest.get(name))}"
    yield from _jobs(plan, manifest)
    jobs = plan.jobs
    for stem, facts in (
        ("checkpoint", [training_facts(job) for job in jobs if isinstance(job, TrainJob)]),
        ("network", [network_facts(job) for job in jobs if isinstance(job, DeployJob)]),
        ("patch", [patch_facts(job) for job in jobs if isinstance(job, CraftJob)]),
    ):
        yield from _entries(stem, facts, manifest.get({"patch": "patches"}.get(stem, f"{stem}s"), ()))


def _entries(stem: str, facts: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Entries of one list of the manifest that are not those of the plan."""
    known = {str(each[stem]): each for each in facts}
    for entry in entries:
        where = f"manifest.json, {stem} {entry.get(stem)}"
        if str(entry.get(stem)) not in known:
            yield f"{where}: expected one that the suite needs, found another"
            continue
        planned = json.loads(json.dumps(known[str(entry.get(stem))]))
        for name in planned:
            if entry.get(name) != planned[name]:
                yield f"{where}: {name}: expected {_shown(planned[name])}, found {_shown(entry.get(name))}"


def _jobs(plan: Plan, manifest: Mapping[str, Any]) -> Iterator[str]:
    planned = {(job.kind, job.key): job.label for job in plan.jobs}
    listed = {(str(job.get("kind")), str(job.get("key"))): job.get("label") for job in manifest.get("jobs", ())}
    for kind, key in sorted(planned.keys() ^ listed.keys()):
        there = "the" if (kind, key) in planned else "no"
        found = "none" if (kind, key) in planned else "one"
        yield f"manifest.json, jobs: expected {there} job {kind} {key[:16]} of the suite, found {found}"
    for at in sorted(planned.keys() & listed.keys()):
        if planned[at] != listed[at]:
            yield f"manifest.json, job {at[1][:16]}: label: expected {_shown(planned[at])}, found {_shown(listed[at])}"


def _shown(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
