"""Stored patches pasted again on networks built from their checkpoints: the predictions must be those of the run.

Nothing is trained and nothing is crafted. The patches are those of the run folder, the places those of the suite, which
must be the stored ones; checkpoints come from the artifact cache and images from their dataset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from qpatchbench.errors import ArtifactError, QPatchBenchError
from qpatchbench.evaluation.repeatability import judged
from qpatchbench.runs.layout import patch_file
from qpatchbench.runs.outcomes import StoredOutcomes
from qpatchbench.runs.patch_file import read_patch
from qpatchbench.runs.records import CellRecord
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import TrainJob
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.verification.rebuilding import Rebuilt, same_machine
from qpatchbench.suite.verification.remeasuring import left_alone_findings, measured_findings, same_numbers
from qpatchbench.suite.work.craft import stored_patch
from qpatchbench.suite.work.evaluate import predicted

StoredOf = Callable[[str], StoredOutcomes]


class Repredicted(NamedTuple):
    """One target network and the cells on it.

    Attributes:
        label: for people.
        cells, predictions: how many were made again; none where the checkpoint is not at hand.
        differ: how many of the predictions are others than those stored.
        findings: what is wrong, one sentence each.
        notes: what differs within the tolerance, or why nothing was made again.
        exact: whether nothing was allowed to differ.
    """

    label: str
    cells: int
    predictions: int
    differ: int
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    exact: bool


def cell_findings(plan: Plan, recorded: set[str]) -> Iterator[str]:
    """Cells that the suite does not ask for, and cells it asks for that the run lacks."""
    planned = {job.short_key: job.label for job in plan.cells}
    for key in sorted(recorded - set(planned)):
        yield (
            f"cells.parquet: cell {key}: expected a cell of the suite, found one that it does not ask for: "
            "the suite was changed, or another version of a component made the cell"
        )
    for key in sorted(set(planned) - recorded):
        label = planned[key]
        yield f"cells.parquet: expected the cell {key} ({label}), which the suite asks for, found none"


def repredictions(run: Rebuilt, stored: StoredOf, recorded: Mapping[str, CellRecord]) -> Iterator[Repredicted]:
    """Predict every recorded cell again, network by network."""
    by_network: dict[str, list[EvaluateJob]] = defaultdict(list)
    for job in run.cells:
        if job.short_key in recorded:
            by_network[job.target.key].append(job)
    for jobs in by_network.values():
        yield _repredicted(run, jobs, stored, recorded)


def _repredicted(
    run: Rebuilt, jobs: list[EvaluateJob], stored: StoredOf, records: Mapping[str, CellRecord]
) -> Repredicted:
    target = jobs[0].target
    exact = same_machine(run, [job.key for job in jobs])
    findings, notes = _checkpoints(run, [target.checkpoint, *(partner.checkpoint for partner in target.partners)])
    if findings or notes:
        return Repredicted(target.label, 0, 0, 0, tuple(findings), tuple(notes), exact)
    images = run.bench.evaluation_images(target.checkpoint.model)
    order = np.argsort(np.array(images.ids))
    ids = tuple(images.ids[place] for place in order)
    clean = torch.from_numpy(run.network(target).arrays["predictions"])
    labels = images.labels.cpu().numpy()[order]
    predictions = differ = 0
    for job in jobs:
        where = f"cell {job.short_key} ({job.label})"
        try:
            before = stored(job.short_key)
        except QPatchBenchError as error:
            findings.append(str(error))
            continue
        if before.ids != ids or not np.array_equal(before.outcomes.labels, labels):
            findings.append(f"outcomes.parquet, {where}: expected the dataset's images and labels, found others")
            continue
        try:
            patch = stored_patch(read_patch(run.folder / patch_file(job.patch.short_key)))
            again, placements = predicted(run.bench, job, patch, images)
        except QPatchBenchError as error:
            findings.append(f"{where}: {error}")
            continue
        for axis in ("rows", "columns"):
            places = np.stack([getattr(placement, axis).numpy() for placement in placements])[:, order]
            wrong = np.argwhere(places != getattr(before, axis))
            if len(wrong):
                goal, image = wrong[0]
                findings.append(
                    f"outcomes.parquet, {where}, image {ids[image]}: {axis[:-1]}: expected {places[goal, image]}, "
                    f"where the suite places the patch, found {getattr(before, axis)[goal, image]}"
                )
        findings += [
            f"outcomes.parquet, {where}: {text}"
            for text in left_alone_findings(job, patch, before, clean.numpy(), order)
        ]
        findings += [
            f"cells.parquet, {where}: {text}"
            for text in measured_findings(run, job, patch, records[job.short_key], again, placements, images)
        ]
        if patch.queries is not None and not same_numbers(patch.queries.numpy(), before.queries, order):
            findings.append(f"outcomes.parquet, {where}: queries: expected those of the patch file, found others")
        clean_differ = int((clean.numpy()[order] != before.outcomes.clean).sum())
        verdict = judged(before.outcomes, again[:, order], ids, exact=exact)
        predictions, differ = predictions + verdict.predictions, differ + verdict.differ
        if clean_differ:
            text = f"{where}: {clean_differ} of {len(ids)} clean predictions differ"
            (findings if exact else notes).append(f"outcomes.parquet, {text}")
        if verdict.text:
            (notes if verdict.accepted else findings).append(f"outcomes.parquet, {where}: {verdict.text}")
    return Repredicted(target.label, len(jobs), predictions, differ, tuple(findings), tuple(notes), exact)


def _checkpoints(run: Rebuilt, jobs: list[TrainJob]) -> tuple[list[str], list[str]]:
    """What is wrong with checkpoints, and which of them are not at hand."""
    named = {str(entry.get("key")): entry for entry in run.manifest.get("checkpoints", ())}
    findings, notes = [], []
    for job in jobs:
        if not run.bench.store.has(job.kind, job.key):
            notes.append(f"not made again: checkpoint {job.short_key} ({job.label}) is not in {run.bench.store.root}")
            continue
        try:
            run.bench.store.read(job.kind, job.key)
        except ArtifactError as error:
            findings.append(str(error))
            continue
        found, expected = run.bench.store.digest(job.kind, job.key), named.get(job.key, {}).get("sha256")
        if found != expected:
            findings.append(
                f"checkpoint {job.short_key} ({job.label}): expected SHA-256 {str(expected)[:16]}..., named by "
                f"manifest.json, found {found[:16]}...: other weights than those of the run"
            )
    return findings, notes
