"""The comparison of what a run folder says of its cells, patches and networks with the plan of its own suite.

An exchanged label no longer fits the key of its cell: a key is a hash of everything that decides the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from qpatchbench.runs.integrity import Unchecked
from qpatchbench.runs.layout import CELLS, MAPS, OUTCOMES, TABLES
from qpatchbench.runs.records import CellRecord
from qpatchbench.suite.execution.export_patches import patch_facts
from qpatchbench.suite.execution.network_facts import network_facts, training_facts
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, TrainJob
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.work.evaluate import record_of
from qpatchbench.suite.work.workbench import PARTS, Workbench

# Found by evaluation, counted again from outcomes, or told by the attack; all other fields follow from the plan.
MEASURED = frozenset(
    {
        *("status", "error", "n_images", "n_clean_correct", "counts", "queries", "queries_median", "n_certified"),
        *("forward_passes", "backward_passes", "checks", "places"),
        *("parameters", "multiplications", "model_bytes", "latency_ms"),
    }
)

FIELDS = frozenset(
    {
        *("suite", "description", "plan", "complete", "partial", "dataset_note", "dataset_fingerprint", "class_names"),
        *("images", "seeds", "resolved", "versions", "git", "plugins", "device", "ran_on", "mixed", "checkpoints"),
        *("networks", "jobs", "patches", "files", "typed", "left_out"),
    }
)
JOB_FIELDS = frozenset({"kind", "key", "label", "error", "dirty", "seconds", "device"})
MEASURED_OF_NETWORKS = frozenset({"n_images", "n_clean_correct", "audit", "size", "runtime"})


def label_findings(plan: Plan, dataset: str, cells: Sequence[CellRecord]) -> Iterator[str]:
    """Fields of records that are not those of their jobs; one sentence each.

    Args:
        plan: of the suite.
        dataset: name of the images, with their note.
        cells: of the run.
    """
    jobs = {job.short_key: job for job in plan.cells}
    for cell in cells:
        job = jobs.get(cell.cell)
        if job is None:
            continue  # told where cells are compared with the plan
        expected = record_of(job, plan.suite, dataset)
        # Of a cell that failed, nothing was measured.
        measured = MEASURED if cell.status == "ok" else {"status", "error"}
        for name in CellRecord.model_fields:
            if name not in measured and getattr(expected, name) != getattr(cell, name):
                planned, found = _shown(getattr(expected, name)), _shown(getattr(cell, name))
                where = f"cells.parquet, cell {cell.cell}"
                yield f"{where}: {name}: expected {planned}, for which its key stands, found {found}"


def image_facts(bench: Workbench) -> dict[str, object]:
    """What a manifest says of images that are at hand."""
    model = bench.suite.models[0]
    splits = bench.splits(model)
    return {
        "dataset_note": bench.dataset_title(model),
        "dataset_fingerprint": dict(splits.fingerprints),
        "class_names": list(splits.class_names),
        "images": {part: len(getattr(splits, part)) for part in PARTS},
    }


def manifest_findings(plan: Plan, manifest: Mapping[str, Any], images: Mapping[str, object]) -> Iterator[str]:
    """What the manifest says and its suite, planned again, does not.

    Args:
        plan: of the suite.
        manifest: of the run.
        images: `image_facts`; empty where none are at hand, which is told.
    """
    suite = plan.suite
    expected: dict[str, object] = {
        "plan": plan.key,
        "suite": suite.suite,
        "description": suite.description,
        "seeds": list(suite.seeds),
        "partial": suite.limit is not None,
        **images,
    }
    for name, value in expected.items():
        if manifest.get(name) != value:
            yield f"manifest.json, {name}: expected {_shown(value)}, found {_shown(manifest.get(name))}"
    for name in sorted(manifest.keys() - FIELDS):
        yield f"manifest.json, {_shown(name)}: expected no such field, found one"
    if not images:
        yield Unchecked("its images, their names and their classes, of which manifest.json has hashes")
    kinds = {job.kind for job in plan.analyses}
    files = {CELLS, OUTCOMES, *(file for kind in kinds for file in TABLES[kind].values())}
    files |= {MAPS} if "maps" in kinds else set()
    for name in sorted(files ^ manifest.get("files", {}).keys()):
        there = ("the hash", "none") if name in files else ("no hash", "one")
        yield f"manifest.json, files: expected {there[0]} of {name}, found {there[1]}"
    yield from _jobs(plan, manifest)
    jobs = plan.jobs
    for stem, facts, more in (
        ("checkpoint", [training_facts(job) for job in jobs if isinstance(job, TrainJob)], {"sha256"}),
        ("network", [network_facts(job) for job in jobs if isinstance(job, DeployJob)], MEASURED_OF_NETWORKS),
        ("patch", [patch_facts(job) for job in jobs if isinstance(job, CraftJob)], {"sha256"}),
    ):
        yield from _entries(stem, facts, manifest.get({"patch": "patches"}.get(stem, f"{stem}s"), ()), more)


def _entries(
    stem: str, facts: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]], more: Set[str]
) -> Iterator[str]:
    """Entries of one list of the manifest that are not those of the plan; `more` are fields that a run adds."""
    known = {str(each[stem]): each for each in facts}
    listed = [str(entry.get(stem)) for entry in entries]
    for key in sorted({key for key in listed if listed.count(key) > 1}):
        yield f"manifest.json, {stem} {key}: expected one entry, found {listed.count(key)}"
    if stem != "patch":  # a patch that failed has no file, and no entry
        for key in known.keys() - set(listed):
            yield f"manifest.json, {stem} {key}: expected an entry, found none"
    for entry in entries:
        where = f"manifest.json, {stem} {entry.get(stem)}"
        if str(entry.get(stem)) not in known:
            yield f"{where}: expected one that the suite needs, found another"
            continue
        planned = json.loads(json.dumps(known[str(entry.get(stem))]))
        for name in planned:
            if entry.get(name) != planned[name]:
                yield f"{where}: {name}: expected {_shown(planned[name])}, found {_shown(entry.get(name))}"
        for name in sorted(entry.keys() - planned.keys() - more):
            yield f"{where}: {_shown(name)}: expected no such field, found one"


def _jobs(plan: Plan, manifest: Mapping[str, Any]) -> Iterator[str]:
    planned = {(job.kind, job.key): job.label for job in plan.jobs}
    listed = {(str(job.get("kind")), str(job.get("key"))): job.get("label") for job in manifest.get("jobs", ())}
    if len(listed) < len(manifest.get("jobs", ())):
        yield f"manifest.json, jobs: expected each job once, found {len(manifest['jobs'])} entries of {len(listed)}"
    for job in manifest.get("jobs", ()):
        for name in sorted(job.keys() - JOB_FIELDS):
            yield f"manifest.json, job {_shown(job.get('key'))}: {_shown(name)}: expected no such field, found one"
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
