"""From artifacts to a run folder that stands on its own: manifest, cells, outcomes and examples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save as serialize_tensors

from qpatchbench.evaluation.records import CellRecord
from qpatchbench.suite.bench import Workbench
from qpatchbench.suite.execute import Execution
from qpatchbench.suite.jobs import DeployJob, EvaluateJob
from qpatchbench.suite.measuring import record_of
from qpatchbench.suite.provenance import git_state, versions
from qpatchbench.suite.store import Artifact, storage_errors, write_atomically
from qpatchbench.types import distinct

EXAMPLES = 8
MEASURED = ("n_images", "n_clean_correct", "counts", "queries", "queries_median", "places", "checks")
MANIFEST = "manifest.json"
ANALYSES = {"cost": "costs.parquet", "similarity": "similarity.parquet"}


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
    records = [_record(job, artifacts[job.key], execution, bench) for job in execution.plan.cells]
    table = pa.Table.from_pylist([record.row() for record in records])
    write_atomically(output / "cells.parquet", _parquet(table))
    _write_outcomes(execution, bench, artifacts, output / "outcomes.parquet")
    write_atomically(output / "examples.safetensors", _examples(execution, bench))
    _write_analyses(execution, output)
    manifest = {**_manifest(execution, bench), "typed": typed}
    write_atomically(output / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def _record(job: EvaluateJob, artifact: Artifact | None, execution: Execution, bench: Workbench) -> CellRecord:
    if artifact is None:
        dataset = bench.dataset_title(job.target.checkpoint.model)
        failed = record_of(job, bench.suite, dataset)
        return failed.model_copy(update={"status": "error", "error": execution.errors[job.key]})
    record = CellRecord.model_validate(artifact.facts["record"])
    # Labels are for people and no part of a key: the same cell may be known by other names in another suite.
    named = record_of(job, bench.suite, record.dataset)
    measured = {name: getattr(record, name) for name in MEASURED}
    return named.model_copy(update=measured)


def _write_outcomes(
    execution: Execution, bench: Workbench, artifacts: Mapping[str, Artifact | None], path: Path
) -> None:
    """One row group per cell, so that the table never has to fit into memory."""
    schema = pa.schema(
        [
            *((name, pa.dictionary(pa.int32(), pa.string())) for name in ("cell", "goal", "image")),
            *((name, pa.int32()) for name in ("label", "clean_prediction", "patched_prediction")),
            *((name, pa.int16()) for name in ("row", "column")),
            ("queries", pa.int32()),
        ]
    )
    temporary = path.with_name(f".{path.name}.partial")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for job in execution.plan.cells:
                artifact, target = artifacts[job.key], execution.artifact(job.target)
                if artifact is not None and target is not None:
                    writer.write_table(_outcomes(job, artifact, target, bench, schema))
        temporary.replace(path)


def _write_analyses(execution: Execution, output: Path) -> None:
    """costs.parquet and similarity.parquet, where the suite asks for them."""
    for kind in distinct([job.kind for job in execution.plan.analyses]):
        found = [execution.artifact(job) for job in execution.plan.analyses if job.kind == kind]
        rows = [row for artifact in found if artifact is not None for row in artifact.facts["rows"]]
        write_atomically(output / ANALYSES[kind], _parquet(pa.Table.from_pylist(rows)))


def _outcomes(job: EvaluateJob, artifact: Artifact, target: Artifact, bench: Workbench, schema: pa.Schema) -> pa.Table:
    images = bench.evaluation_images(job.target.checkpoint.model)
    predictions = artifact.arrays["predictions"]
    goals, count = predictions.shape
    each = np.tile(np.arange(count, dtype=np.int32), goals)
    columns: dict[str, Any] = {
        "cell": pa.DictionaryArray.from_arrays(pa.array(np.zeros(goals * count, np.int32)), [job.key[:16]]),
        "goal": pa.DictionaryArray.from_arrays(
            pa.array(np.repeat(np.arange(goals, dtype=np.int32), count)), [str(goal) for goal in job.patch.goals]
        ),
        "image": pa.DictionaryArray.from_arrays(pa.array(each), list(images.ids)),
        "label": np.tile(images.labels.cpu().numpy().astype(np.int32), goals),
        "clean_prediction": np.tile(target.arrays["predictions"], goals),
        "patched_prediction": predictions.reshape(-1),
        "row": artifact.arrays["rows"].reshape(-1),
        "column": artifact.arrays["columns"].reshape(-1),
        "queries": (
            artifact.arrays["queries"].reshape(-1).astype(np.int32)
            if "queries" in artifact.arrays
            else pa.nulls(goals * count, pa.int32())
        ),
    }
    return pa.table(columns, schema=schema)


def _parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return bytes(buffer.getvalue())


def _examples(execution: Execution, bench: Workbench) -> bytes:
    """A few evaluation images with every patch, for the galleries; 8-bit."""
    images = bench.evaluation_images(bench.suite.models[0])[:EXAMPLES]
    arrays = {"pixels": images.pixels.cpu().numpy(), "labels": images.labels.cpu().numpy()}
    for patch in dict.fromkeys(job.patch for job in execution.plan.cells):
        artifact = execution.artifact(patch)
        if artifact is None:
            continue
        textures, masks = artifact.arrays["textures"], artifact.arrays["masks"]
        if patch.attack.kind == "per_image":
            keep = [*_first_of_each_goal(len(textures), len(patch.goals), len(images))]
            textures, masks = textures[keep], masks[keep]
        arrays[f"patch/{patch.key[:16]}/textures"] = np.ascontiguousarray(textures)
        arrays[f"patch/{patch.key[:16]}/masks"] = np.ascontiguousarray(masks)
    return serialize_tensors(arrays, metadata={"ids": json.dumps(images.ids)})


def _first_of_each_goal(textures: int, goals: int, examples: int) -> Iterator[int]:
    each = textures // goals
    for goal in range(goals):
        yield from range(goal * each, goal * each + min(examples, each))


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
        "device": str(bench.device),
        "networks": [_network_facts(job, execution) for job in plan.jobs if isinstance(job, DeployJob)],
        "jobs": [_job_facts(job, execution) for job in plan.jobs],
    }


def _network_facts(job: DeployJob, execution: Execution) -> dict[str, Any]:
    artifact = execution.artifact(job)
    facts = dict(artifact.facts) if artifact else {}
    names = ("n_images", "n_clean_correct", "audit")
    return {"label": job.label, "network": job.key[:16], **{name: facts[name] for name in names if name in facts}}


def _job_facts(job: Any, execution: Execution) -> dict[str, Any]:  # noqa: ANN401 (any kind of job)
    entry = {"kind": job.kind, "key": job.key, "label": job.label}
    if job.key in execution.errors:
        return {**entry, "error": execution.errors[job.key].strip().splitlines()[-1]}
    made = execution.store.facts(job.kind, job.key).get("made", {})
    return {**entry, **{name: made[name] for name in ("seconds", "device") if name in made}}
