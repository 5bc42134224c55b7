"""The analyses of a run in its folder: tables, and the maps that figures are drawn from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from safetensors.numpy import save as serialize_tensors

from qpatchbench.runs.files import parquet, write_atomically
from qpatchbench.runs.layout import MAPS, TABLES
from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.jobs.cost import CostJob
from qpatchbench.suite.jobs.maps import MapsJob
from qpatchbench.suite.jobs.similarity import SimilarityJob
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.maps import patch_facts
from qpatchbench.suite.work.similarity import titles
from qpatchbench.types import distinct

AnalysisJob: TypeAlias = CostJob | SimilarityJob | MapsJob


def write_analyses(execution: Execution, output: Path) -> None:
    """Write the files of those analyses that the suite asks for; one that failed is missing from them.

    Raises:
        StorageError: the folder cannot be written.
    """
    analyses = execution.plan.analyses
    for kind in distinct([job.kind for job in analyses]):
        found = [(job, execution.artifact(job)) for job in analyses if job.kind == kind]
        finished = [named(job, artifact) for job, artifact in found if artifact is not None]
        for name, file in TABLES[kind].items():
            rows = [row for artifact in finished for row in artifact.facts[name]]
            write_atomically(output / file, parquet(_table(rows)))
        if kind == "maps":
            write_atomically(output / MAPS, maps_of(finished))


def named(job: AnalysisJob, artifact: Artifact) -> Artifact:
    """An artifact under the labels of the suite that asks for it; another suite may have made it under its own."""
    if isinstance(job, CostJob):
        shared = {"model": job.reference.model.title, "reference": job.reference.defense.title}
        trainings = (*job.trainings, *job.narrowed)
        rows = [
            {**row, **shared, "defense": training.defense.title}
            for row, training in zip(artifact.facts["rows"], trainings, strict=True)
        ]
        return replace(artifact, facts={**artifact.facts, "rows": rows})
    own = titles(job.networks)
    tables = {name: [{**row, **own} for row in artifact.facts[name]] for name in TABLES[job.kind]}
    facts = {**artifact.facts, **tables}
    if isinstance(job, MapsJob):
        facts |= {**own, "patch": patch_facts(job)}
    return replace(artifact, facts=facts)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    # A row that an earlier version measured may lack a column.
    names = distinct([name for row in rows for name in row])
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])


def maps_of(finished: Sequence[Artifact]) -> bytes:
    """Arrays of all backbones as NUMBER/NAME; the metadata "backbones" lists what is known of each, as JSON."""
    arrays = {f"{number}/{name}": array for number, each in enumerate(finished) for name, array in each.arrays.items()}
    left_out = {*TABLES["maps"], "made"}  # the manifest says when and where it was made
    known = [{name: fact for name, fact in each.facts.items() if name not in left_out} for each in finished]
    return serialize_tensors(arrays, metadata={"backbones": json.dumps(known)})
