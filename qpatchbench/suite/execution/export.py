"""From artifacts to a run folder that stands on its own: manifest, cells, outcomes and examples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qpatchbench.evaluation.checks.artifacts import merged
from qpatchbench.runs.files import parquet, replacing, sha256_of, storage_errors, write_atomically
from qpatchbench.runs.layout import ANALYSIS_FILES, CELLS, EXAMPLES, GROUP_ROWS, MANIFEST, OUTCOMES, patch_file
from qpatchbench.runs.ownership import claim, owned_files
from qpatchbench.runs.records import CellRecord
from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.execution.export_analyses import write_analyses
from qpatchbench.suite.execution.export_examples import serialized_examples
from qpatchbench.suite.execution.export_patches import remove_other_patches, write_patch
from qpatchbench.suite.execution.later_checks import LaterChecks
from qpatchbench.suite.execution.network_facts import checkpoint_facts, network_facts
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import DeployJob, TrainJob
from qpatchbench.suite.store.plugin_facts import plugins_of
from qpatchbench.suite.store.provenance import git_state, mixture, ran_on, versions
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.evaluate import record_of
from qpatchbench.suite.work.workbench import Workbench

MEASURED = (
    *("n_images", "n_clean_correct", "n_certified", "counts", "queries", "queries_median"),
    *("forward_passes", "backward_passes", "places", "checks"),
    *("parameters", "multiplications", "model_bytes", "latency_ms"),
)


def export(execution: Execution, bench: Workbench, output: Path, typed: Mapping[str, Any]) -> None:
    """Write the run folder; each file is complete or absent, the manifest comes last.

    Args:
        execution: the finished execution.
        bench: gives images and placements.
        output: the run folder.
        typed: the suite as its author wrote it.

    Raises:
        StorageError: the folder cannot be written.
    """
    artifacts = {job.key: execution.artifact(job) for job in execution.plan.cells}
    later = LaterChecks(execution)
    records = [_record(job, artifacts[job.key], execution, bench, later) for job in execution.plan.cells]
    table = pa.Table.from_pylist([record.row() for record in records])
    write_atomically(output / CELLS, parquet(table))
    patches = _write_patches(execution, output)
    _write_outcomes(execution, bench, artifacts, output / OUTCOMES)
    write_atomically(output / EXAMPLES, serialized_examples(execution, bench, artifacts))
    write_analyses(execution, output)
    manifest = {**_manifest(execution, bench), "patches": patches, "files": _hashes(output), "typed": typed}
    write_atomically(output / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def _record(
    job: EvaluateJob, artifact: Artifact | None, execution: Execution, bench: Workbench, later: LaterChecks
) -> CellRecord:
    if artifact is None:
        dataset = bench.dataset_title(job.target.checkpoint.model)
        failed = record_of(job, bench.suite, dataset)
        return failed.model_copy(update={"status": "error", "error": execution.errors[job.key]})
    record = CellRecord.model_validate(artifact.facts["record"])
    # Labels are for people and no part of a key: the same cell may be known by other names in another suite.
    named = record_of(job, bench.suite, bench.dataset_title(job.target.checkpoint.model))
    measured = {name: getattr(record, name) for name in MEASURED}
    measured["checks"] = merged([*record.checks, *later.of(job)])
    return named.model_copy(update=measured)


def _write_outcomes(
    execution: Execution, bench: Workbench, artifacts: Mapping[str, Artifact | None], path: Path
) -> None:
    """Row groups of some cells: all never have to fit into memory, and what cells share is stored once a group."""
    schema = pa.schema(
        [
            *((name, pa.dictionary(pa.int32(), pa.string())) for name in ("cell", "goal", "image")),
            *((name, pa.int32()) for name in ("label", "clean_prediction", "patched_prediction")),
            *((name, pa.int16()) for name in ("row", "column")),
            ("queries", pa.int32()),
            ("attacked", pa.bool_()),
        ]
    )
    with (
        storage_errors(path),
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        held: list[pa.Table] = []
        for job in execution.plan.cells:
            artifact, target = artifacts[job.key], execution.artifact(job.target)
            if artifact is None or target is None:
                continue
            table = _outcomes(job, artifact, target, bench, schema)
            if held and sum(map(len, held)) + len(table) > GROUP_ROWS:
                writer.write_table(pa.concat_tables(held).unify_dictionaries())
                held = []
            held.append(table)
        if held:
            writer.write_table(pa.concat_tables(held).unify_dictionaries())


def _write_patches(execution: Execution, output: Path) -> list[dict[str, Any]]:
    """Every patch of the run as a file of its own, and what the manifest says of them."""
    jobs = {job.patch.key: job.patch for job in execution.plan.cells}
    found = [(job, execution.artifact(job)) for job in jobs.values()]
    suite = execution.plan.suite.suite
    owned = owned_files(output, suite)
    # Claimed before they are written, so that a killed export leaves no file that nobody owns.
    claim(output, suite, (patch_file(job.short_key) for job, artifact in found if artifact is not None))
    entries = [write_patch(artifact, job, output) for job, artifact in found if artifact is not None]
    remove_other_patches(output, {entry["file"] for entry in entries}, owned)
    return entries


def _hashes(output: Path) -> dict[str, str]:
    """SHA-256 of the files whose numbers everything else is computed from."""
    names = [CELLS, OUTCOMES, *ANALYSIS_FILES]
    return {name: sha256_of(output / name) for name in names if (output / name).is_file()}


def _outcomes(job: EvaluateJob, artifact: Artifact, target: Artifact, bench: Workbench, schema: pa.Schema) -> pa.Table:
    images = bench.evaluation_images(job.target.checkpoint.model)
    predictions = artifact.arrays["predictions"]
    goals, count = predictions.shape
    each = np.tile(np.arange(count, dtype=np.int32), goals)
    columns: dict[str, Any] = {
        "cell": pa.DictionaryArray.from_arrays(pa.array(np.zeros(goals * count, np.int32)), [job.short_key]),
        "goal": pa.DictionaryArray.from_arrays(
            pa.array(np.repeat(np.arange(goals, dtype=np.int32), count)), [str(goal) for goal in job.patch.goals]
        ),
        "image": pa.DictionaryArray.from_arrays(pa.array(each), list(images.ids)),
        "label": np.tile(images.labels.cpu().numpy().astype(np.int32), goals),
        # Cells of earlier versions have none of their own.
        "clean_prediction": np.tile(artifact.arrays.get("clean", target.arrays["predictions"]), goals),
        "patched_prediction": predictions.reshape(-1),
        "row": artifact.arrays["rows"].reshape(-1),
        "column": artifact.arrays["columns"].reshape(-1),
        "queries": (
            artifact.arrays["queries"].reshape(-1).astype(np.int32)
            if "queries" in artifact.arrays
            else pa.nulls(goals * count, pa.int32())
        ),
        "attacked": (
            artifact.arrays["attacked"].reshape(-1).astype(bool)
            if "attacked" in artifact.arrays
            else pa.nulls(goals * count, pa.bool_())
        ),
    }
    return pa.table(columns, schema=schema)


def _manifest(execution: Execution, bench: Workbench) -> dict[str, Any]:
    suite, plan = bench.suite, execution.plan
    splits = bench.splits(suite.models[0])
    return {
        "suite": suite.suite,
        "description": suite.description,
        "plan": plan.key,
        "complete": not execution.errors,
        "partial": suite.limit is not None,
        "dataset_note": bench.dataset_title(suite.models[0]),
        "dataset_fingerprint": splits.fingerprints,
        "class_names": splits.class_names,
        "images": {part: len(getattr(splits, part)) for part in ("train", "calibration", "craft", "evaluation")},
        "seeds": suite.seeds,
        "resolved": suite.resolved(),
        "versions": versions(),
        "git": git_state(),
        "plugins": plugins_of(suite),
        "device": str(bench.device),
        "ran_on": ran_on(bench.device),
        "mixed": mixture(_places(execution)),
        "checkpoints": [checkpoint_facts(job, bench.store) for job in plan.jobs if isinstance(job, TrainJob)],
        "networks": [_network_facts(job, execution) for job in plan.jobs if isinstance(job, DeployJob)],
        "jobs": [_job_facts(job, execution) for job in plan.jobs],
    }


def _places(execution: Execution) -> Iterator[Mapping[str, str]]:
    """Where each finished job was computed; of results of an earlier version nothing is known."""
    for job in execution.plan.jobs:
        if job.key not in execution.errors:
            yield execution.store.facts(job.kind, job.key).get("made", {}).get("ran_on", {})


def _network_facts(job: DeployJob, execution: Execution) -> dict[str, Any]:
    artifact = execution.artifact(job)
    facts = dict(artifact.facts) if artifact else {}
    names = ("n_images", "n_clean_correct", "audit", "size", "runtime")
    return {**network_facts(job), **{name: facts[name] for name in names if name in facts}}


def _job_facts(job: Any, execution: Execution) -> dict[str, Any]:  # noqa: ANN401 (any kind of job)
    entry = {"kind": job.kind, "key": job.key, "label": job.label}
    if job.key in execution.errors:
        return {**entry, "error": execution.errors[job.key].strip().splitlines()[-1]}
    made = execution.store.facts(job.kind, job.key).get("made", {})
    if made.get("git", {}).get("dirty"):
        entry["dirty"] = True  # computed with uncommitted changes
    return {**entry, **{name: made[name] for name in ("seconds", "device") if name in made}}
